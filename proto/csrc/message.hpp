// What messages between members of a group are made of: proto/member_link.py writes and reads the same in Python.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 // older macOS; Python ignores SIGPIPE everywhere
#endif

namespace potluck {

inline bool again(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

// The sum of 64-bit words, the last one filled up with zeros.
inline uint64_t sum_of_words(const char* bytes, size_t size) {
    const size_t words = size / 8;
    uint64_t sum = 0, last = 0;
    for (size_t i = 0; i < words; ++i) {
        uint64_t word;
        std::memcpy(&word, bytes + 8 * i, 8);
        sum += word;
    }
    std::memcpy(&last, bytes + 8 * words, size % 8);
    return sum + last;
}

} // namespace potluck
