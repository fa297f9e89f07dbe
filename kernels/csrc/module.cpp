// The Python module potluck._native: addresses and sizes in, nothing owned. kernels/quantized.py checks them first.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "formats.hpp"
#include "pool.hpp"

namespace {

using namespace potluck;

const Backend* g_backend = nullptr;

const Backend* named_backend(const char* name) {
    for (const Backend* backend : {avx512_backend(), avx2_backend(), generic_backend()})
        if (backend && (!*name || !std::strcmp(name, backend->name))) return backend;
    return nullptr;
}

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

float bits_as_float(int64_t bits) {
    const uint32_t word = static_cast<uint32_t>(bits);
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

template <typename T> T* pointer(int64_t address) { return reinterpret_cast<T*>(static_cast<uintptr_t>(address)); }

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

struct Scratch {
    std::vector<int8_t> q;
    std::vector<float> scale, totals;
    std::vector<int32_t> sums;
};

// multiply(kind, packed, rows, columns, x, count, y, stride)
PyObject* multiply_(PyObject*, PyObject* const* args, Py_ssize_t given) {
    int64_t n[8];
    if (!numbers_of_format(args, given, 8, n)) return nullptr;
    const Kind kind = static_cast<Kind>(n[0]);
    const uint8_t* packed = pointer<const uint8_t>(n[1]);
    const int64_t rows = n[2], columns = n[3], count = n[5], stride = n[7];
    const float* x = pointer<const float>(n[4]);
    float* y = pointer<float>(n[6]);
    Py_BEGIN_ALLOW_THREADS;
    static thread_local Scratch scratch;
    const size_t tiles = static_cast<size_t>(count * columns / kTile);
    if (scratch.totals.size() < tiles) {
        scratch.q.resize(tiles * kTile);
        scratch.scale.resize(2 * tiles);
        scratch.sums.resize(2 * tiles);
        scratch.totals.resize(tiles);
    }
    Scratch* own = &scratch; // a lambda would see its own thread's
    Pool& pool = Pool::shared();
    pool.run(count, 16, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t)
            g_backend->quantize(x + t * columns, columns, own->q.data() + t * columns,
                                own->scale.data() + t * (columns / 16), own->sums.data() + t * (columns / 16),
                                own->totals.data() + t * (columns / kTile));
    });
    const Activations activations = {own->q.data(), own->scale.data(), own->sums.data(), own->totals.data(), columns};
    const size_t size = group_bytes(format(kind), columns);
    const int64_t groups = (rows + kRows - 1) / kRows;
    const GroupProduct product = g_backend->products[static_cast<int>(kind)];
    pool.run(groups, 4, [&](int64_t begin, int64_t end) {
        for (int64_t g = begin; g < end; ++g) {
            const int64_t valid = rows - g * kRows < kRows ? rows - g * kRows : kRows;
            product(packed + static_cast<size_t>(g) * size, activations, 0, count, y + g * kRows, stride, valid);
        }
    });
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
    const int64_t rows = n[11], slots = 4 * (n[12] + 16); // four queries at a time
    Py_BEGIN_ALLOW_THREADS;
    Pool::shared().run(rows * work.kv_heads, 1, [&](int64_t begin, int64_t end) {
        static thread_local std::vector<float> scores;
        if (static_cast<int64_t>(scores.size()) < slots) scores.resize(static_cast<size_t>(slots));
        for (int64_t i = begin; i < end; ++i)
            g_backend->attend(work, i / work.kv_heads, i % work.kv_heads, scores.data());
    });
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

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
    {"backend", backend_, METH_O, nullptr},
    {"threads", threads_, METH_O, nullptr},
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
    if (module && PyModule_AddIntConstant(module, "VERSION", 2) < 0) return nullptr;
    return module;
}
