// Messages over a socket without what Python's own socket calls cost: a sum of a decoded token takes as long as a few of
// those. Sockets do not block; waiting is for poll.
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "direct_sum.hpp"
#include "message.hpp"

namespace {

using namespace potluck;
using Clock = std::chrono::steady_clock;

// What is left of a head and a body after `done` bytes; the number of pieces.
int rest(iovec* pieces, Py_buffer& head, Py_buffer& body, Py_ssize_t done) {
    int count = 0;
    if (done < head.len) pieces[count++] = {static_cast<char*>(head.buf) + done, static_cast<size_t>(head.len - done)};
    Py_ssize_t of_body = done > head.len ? done - head.len : 0;
    if (of_body < body.len)
        pieces[count++] = {static_cast<char*>(body.buf) + of_body, static_cast<size_t>(body.len - of_body)};
    return count;
}

struct Message {
    int fd = -1, timeout = 0;
    Py_buffer head{}, body{};
    Py_ssize_t done = 0;

    bool parse(PyObject* args, const char* format) {
        return PyArg_ParseTuple(args, format, &fd, &head, &body, &done, &timeout);
    }
    ~Message() {
        if (head.obj) PyBuffer_Release(&head);
        if (body.obj) PyBuffer_Release(&body);
    }
    Py_ssize_t total() const { return head.len + body.len; }
};

// checksum(buffer): see sum_of_words
PyObject* checksum(PyObject*, PyObject* args) {
    Py_buffer data{};
    if (!PyArg_ParseTuple(args, "y*", &data)) return nullptr;
    uint64_t sum = 0;
    Py_BEGIN_ALLOW_THREADS;
    sum = sum_of_words(static_cast<const char*>(data.buf), static_cast<size_t>(data.len));
    Py_END_ALLOW_THREADS;
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLongLong(sum);
}

// send(fd, head, body, done, timeout): how much of both is with the kernel now; waits until it takes more, for `timeout`
// milliseconds at most
PyObject* send(PyObject*, PyObject* args) {
    Message m;
    if (!m.parse(args, "iy*y*ni")) return nullptr;
    int error = 0;
    Py_BEGIN_ALLOW_THREADS;
    while (m.done < m.total()) {
        iovec pieces[2];
        msghdr message{};
        message.msg_iov = pieces;
        message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(rest(pieces, m.head, m.body, m.done));
        ssize_t count = ::sendmsg(m.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count >= 0) {
            m.done += count;
        } else if (!again(errno)) {
            error = errno;
            break;
        } else {
            pollfd wanted{m.fd, POLLOUT, 0};
            if (m.timeout == 0 || ::poll(&wanted, 1, m.timeout) == 0) break;
        }
    }
    Py_END_ALLOW_THREADS;
    if (error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromSsize_t(m.done);
}

// receive(fd, head, body, done, (timeout, spin)): how much of both is there now; looks again and again for `spin`
// microseconds, then waits for `timeout` milliseconds whenever nothing comes. -1: the other end has ended the stream.
PyObject* receive(PyObject*, PyObject* args) {
    Message m;
    int spin = 0;
    if (!PyArg_ParseTuple(args, "iw*w*n(ii)", &m.fd, &m.head, &m.body, &m.done, &m.timeout, &spin)) return nullptr;
    int error = 0;
    bool ended = false;
    Py_BEGIN_ALLOW_THREADS;
    auto until = Clock::now() + std::chrono::microseconds(spin);
    while (m.done < m.total() && !ended) {
        iovec pieces[2];
        msghdr message{};
        message.msg_iov = pieces;
        message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(rest(pieces, m.head, m.body, m.done));
        ssize_t count = ::recvmsg(m.fd, &message, MSG_DONTWAIT);
        if (count > 0) {
            m.done += count;
        } else if (count == 0) {
            ended = true;
        } else if (!again(errno)) {
            error = errno;
            break;
        } else if (spin == 0 || Clock::now() >= until) {
            pollfd wanted{m.fd, POLLIN, 0};
            if (m.timeout == 0 || ::poll(&wanted, 1, m.timeout) == 0) break;
        }
    }
    Py_END_ALLOW_THREADS;
    if (error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromSsize_t(ended ? -1 : m.done);
}

// sum_address(): of direct_sum, for code in C++ that computes the parts
PyObject* sum_address(PyObject*, PyObject*) { return PyLong_FromVoidPtr(reinterpret_cast<void*>(direct_sum)); }

PyMethodDef methods[] = {
    {"checksum", checksum, METH_VARARGS, nullptr},
    {"send", send, METH_VARARGS, nullptr},
    {"receive", receive, METH_VARARGS, nullptr},
    {"sum_address", sum_address, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_link", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit__link() {
    PyObject* module = PyModule_Create(&definition);
    // proto/socket_calls.py takes no other: an extension left over from an older checkout would write elsewhere.
    if (module && PyModule_AddIntConstant(module, "VERSION", 1) < 0) return nullptr;
    return module;
}
