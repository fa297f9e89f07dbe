// The Python module potluck.kernels._native: addresses and sizes in, nothing owned. kernels/packed.py checks them first.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "decode.hpp"
#include "guard.hpp"
#include "pool.hpp"
#include "products.hpp"

namespace {

using namespace potluck;

bool numbers(PyObject* const* args, Py_ssize_t given, Py_ssize_t wanted, int64_t* out) {
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd arguments instead of %zd", given, wanted);
        return false;
    }
    for (Py_ssize_t i = 0; i < wanted; ++i) {
        out[i] = PyLong_AsLongLong(args[i]);
        if (out[i] == -1 && PyErr_Occurred()) return false;
    }
    return true;
}

// The same, where the first says which format.
bool numbers_of_format(PyObject* const* args, Py_ssize_t given, Py_ssize_t wanted, int64_t* out) {
    if (!numbers(args, given, wanted, out)) return false;
    if (out[0] < 0 || out[0] >= static_cast<int64_t>(Kind::Count)) {
        PyErr_SetString(PyExc_ValueError, "no such format");
        return false;
    }
    return true;
}

// packed_bytes(kind, rows, columns)
PyObject* packed_bytes_(PyObject*, PyObject* const* args, Py_ssize_t given) {
    int64_t n[3];
    if (!numbers_of_format(args, given, 3, n)) return nullptr;
    return PyLong_FromSize_t(packed_bytes(static_cast<Kind>(n[0]), n[1], n[2]));
}

// pack(kind, blocks, rows, columns, packed)
PyObject* pack_(PyObject*, PyObject* const* args, Py_ssize_t given) {
    int64_t n[5];
    if (!numbers_of_format(args, given, 5, n)) return nullptr;
    Py_BEGIN_ALLOW_THREADS;
    pack(static_cast<Kind>(n[0]), pointer<const uint8_t>(n[1]), n[2], n[3], pointer<uint8_t>(n[4]));
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// unpack(kind, packed, columns, row numbers, count, out)
PyObject* unpack_(PyObject*, PyObject* const* args, Py_ssize_t given) {
    int64_t n[6];
    if (!numbers_of_format(args, given, 6, n)) return nullptr;
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t i = 0; i < n[4]; ++i)
        unpack_row(static_cast<Kind>(n[0]), pointer<const uint8_t>(n[1]), n[2], pointer<const int64_t>(n[3])[i],
                   pointer<float>(n[5]) + i * n[2]);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// multiply(kind, packed, rows, columns, x, count, y, stride, exact)
PyObject* multiply_(PyObject*, PyObject* const* args, Py_ssize_t given) {
    int64_t n[9];
    if (!numbers_of_format(args, given, 9, n)) return nullptr;
    const Exact work = {static_cast<Kind>(n[0]), pointer<const uint8_t>(n[1]), n[2], n[3], pointer<const float>(n[4]),
                        n[5], pointer<float>(n[6]), n[7]};
    Py_BEGIN_ALLOW_THREADS;
    if (n[8] != 0 || is_plain(format(work.kind))) {
        multiply_exact(work);
    } else {
        round_rows(work.x, work.count, work.columns);
        multiply_rounded(work);
    }
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// norm(x, weight, eps as bits, rows, width, out, half)
PyObject* norm_(PyObject*, PyObject* const* args, Py_ssize_t given) {
    int64_t n[7];
    if (!numbers(args, given, 7, n)) return nullptr;
    Py_BEGIN_ALLOW_THREADS;
    g_backend->norm(pointer<const float>(n[0]), pointer<const float>(n[1]), bits_as_float(n[2]), n[3], n[4],
                    pointer<void>(n[5]), n[6] != 0);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// gate(x, rows, width, gelu, out, half)
PyObject* gate_(PyObject*, PyObject* const* args, Py_ssize_t given) {
    int64_t n[6];
    if (!numbers(args, given, 6, n)) return nullptr;
    Py_BEGIN_ALLOW_THREADS;
    g_backend->gate(pointer<const void>(n[0]), n[1], n[2], n[3] != 0, pointer<void>(n[4]), n[5] != 0);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// turn(qkv, cos, sin, norm or 0, eps as bits, q, pool, slots, rows, heads, kv_heads, width, half_in, half)
PyObject* turn_(PyObject*, PyObject* const* args, Py_ssize_t given) {
    int64_t n[14];
    if (!numbers(args, given, 14, n)) return nullptr;
    const Turn work = {
        pointer<const void>(n[0]),  pointer<const float>(n[1]), pointer<const float>(n[2]),
        pointer<const float>(n[3]), bits_as_float(n[4]),        pointer<void>(n[5]),
        pointer<void>(n[6]),        pointer<const int64_t>(n[7]), n[8], n[9], n[10], n[11],
        n[12] != 0,                 n[13] != 0,
    };
    Py_BEGIN_ALLOW_THREADS;
    g_backend->turn(work);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// attend(q, pool, out, meta, blocks, heads, kv_heads, width, block, scale as bits, half, rows, most slots)
PyObject* attend_(PyObject*, PyObject* const* args, Py_ssize_t given) {
    int64_t n[13];
    if (!numbers(args, given, 13, n)) return nullptr;
    const Attend work = {
        pointer<const void>(n[0]), pointer<const void>(n[1]), pointer<void>(n[2]),
        pointer<const int64_t>(n[3]), pointer<const int64_t>(n[4]), n[5], n[6], n[7], n[8],
        bits_as_float(n[9]),       n[10] != 0,
    };
    Py_BEGIN_ALLOW_THREADS;
    attend_rows(work, n[11], n[12]);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyObject* half_(void (*half)(const int64_t*, const int64_t*, const float*, float*), PyObject* const* args, Py_ssize_t given) {
    int64_t n[4];
    if (!numbers(args, given, 4, n)) return nullptr;
    Py_BEGIN_ALLOW_THREADS;
    half(pointer<const int64_t>(n[0]), pointer<const int64_t>(n[1]), pointer<const float>(n[2]), pointer<float>(n[3]));
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// attention_half(half, step, x, out), ffn_half(half, step, x, out): see decode.hpp
PyObject* attention_half_(PyObject*, PyObject* const* args, Py_ssize_t given) { return half_(attention_half, args, given); }
PyObject* ffn_half_(PyObject*, PyObject* const* args, Py_ssize_t given) { return half_(ffn_half, args, given); }

// layers(layers, count, steps, x, width, sum or 0, its context): see decode_layers in decode.hpp
PyObject* layers_(PyObject*, PyObject* const* args, Py_ssize_t given) {
    int64_t n[7];
    if (!numbers(args, given, 7, n)) return nullptr;
    int failed = 0;
    Py_BEGIN_ALLOW_THREADS;
    failed = decode_layers(pointer<const int64_t>(n[0]), n[1], pointer<const int64_t>(n[2]), pointer<float>(n[3]), n[4],
                           reinterpret_cast<Sum>(pointer<void>(n[5])), pointer<void>(n[6]));
    Py_END_ALLOW_THREADS;
    if (failed) return nullptr;
    Py_RETURN_NONE;
}

// guard(address, size), unguard(slot), was_missed(slot), misses(): see guard.hpp
PyObject* guard_(PyObject*, PyObject* const* args, Py_ssize_t given) {
    int64_t n[2];
    if (!numbers(args, given, 2, n)) return nullptr;
    return PyLong_FromLong(guard(static_cast<uintptr_t>(n[0]), static_cast<size_t>(n[1])));
}

PyObject* unguard_(PyObject*, PyObject* slot) {
    const long number = PyLong_AsLong(slot);
    if (number == -1 && PyErr_Occurred()) return nullptr;
    unguard(static_cast<int>(number));
    Py_RETURN_NONE;
}

PyObject* was_missed_(PyObject*, PyObject* slot) {
    const long number = PyLong_AsLong(slot);
    if (number == -1 && PyErr_Occurred()) return nullptr;
    return PyBool_FromLong(was_missed(static_cast<int>(number)));
}

PyObject* misses_(PyObject*, PyObject*) { return PyLong_FromLongLong(misses()); }

// backend(name): use the one of this name, the best there is for "", and say which it is; None where it cannot run.
PyObject* backend_(PyObject*, PyObject* name) {
    Py_ssize_t size;
    const char* text = PyUnicode_AsUTF8AndSize(name, &size);
    if (!text) return nullptr;
    const Backend* found = named_backend(text);
    if (!found) Py_RETURN_NONE;
    g_backend = found;
    return PyUnicode_FromString(found->name);
}

PyObject* threads_(PyObject*, PyObject* count) {
    const long threads = PyLong_AsLong(count);
    if (threads == -1 && PyErr_Occurred()) return nullptr;
    Pool::shared().resize(threads < 1 ? 1 : static_cast<int>(threads));
    Py_RETURN_NONE;
}

using Fast = PyCFunction;
PyMethodDef kMethods[] = {
    {"packed_bytes", reinterpret_cast<Fast>(reinterpret_cast<void*>(packed_bytes_)), METH_FASTCALL, nullptr},
    {"pack", reinterpret_cast<Fast>(reinterpret_cast<void*>(pack_)), METH_FASTCALL, nullptr},
    {"unpack", reinterpret_cast<Fast>(reinterpret_cast<void*>(unpack_)), METH_FASTCALL, nullptr},
    {"multiply", reinterpret_cast<Fast>(reinterpret_cast<void*>(multiply_)), METH_FASTCALL, nullptr},
    {"norm", reinterpret_cast<Fast>(reinterpret_cast<void*>(norm_)), METH_FASTCALL, nullptr},
    {"gate", reinterpret_cast<Fast>(reinterpret_cast<void*>(gate_)), METH_FASTCALL, nullptr},
    {"turn", reinterpret_cast<Fast>(reinterpret_cast<void*>(turn_)), METH_FASTCALL, nullptr},
    {"attend", reinterpret_cast<Fast>(reinterpret_cast<void*>(attend_)), METH_FASTCALL, nullptr},
    {"attention_half", reinterpret_cast<Fast>(reinterpret_cast<void*>(attention_half_)), METH_FASTCALL, nullptr},
    {"layers", reinterpret_cast<Fast>(reinterpret_cast<void*>(layers_)), METH_FASTCALL, nullptr},
    {"ffn_half", reinterpret_cast<Fast>(reinterpret_cast<void*>(ffn_half_)), METH_FASTCALL, nullptr},
    {"backend", backend_, METH_O, nullptr},
    {"threads", threads_, METH_O, nullptr},
    {"guard", reinterpret_cast<Fast>(reinterpret_cast<void*>(guard_)), METH_FASTCALL, nullptr},
    {"unguard", unguard_, METH_O, nullptr},
    {"was_missed", was_missed_, METH_O, nullptr},
    {"misses", misses_, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef kModule = {
    PyModuleDef_HEAD_INIT, "_native", "Products with quantised weights.", -1, kMethods, nullptr, nullptr, nullptr, nullptr,
};

} // namespace

PyMODINIT_FUNC PyInit__native(void) {
    g_backend = named_backend("");
    PyObject* module = PyModule_Create(&kModule);
    // kernels/native_module.py takes no other: an extension left over from an older checkout would compute nonsense.
    if (module && PyModule_AddIntConstant(module, "VERSION", 5) < 0) return nullptr;
    return module;
}
