#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "direct_sum.hpp"

#include <algorithm>
#include <chrono>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <vector>

#include "message.hpp"

namespace potluck {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kHead = 32;
constexpr int kPatience = 1000; // milliseconds without a byte, as in member_link.py
constexpr int kSpin = 150;      // microseconds, as there
constexpr char kMark[4] = {'P', 'L', 'S', 'U'};

enum Trouble { kSilent, kEnded, kFailed, kForeign, kDamaged };

struct Circle {
    enum { kPlace, kMembers, kHalf, kTold, kLook, kSums, kNanoseconds, kWays };
    enum { kDescriptor, kSent, kReceived, kWay };
    int64_t* numbers;

    int64_t& operator[](int at) const { return numbers[at]; }
    int64_t* way(int64_t place) const { return numbers + kWays + kWay * place; }

    // Whether to go on.
    bool told(int64_t place, Trouble what, int error, size_t in) const {
        const PyGILState_STATE state = PyGILState_Ensure();
        PyObject* whom = reinterpret_cast<PyObject*>(static_cast<uintptr_t>(numbers[kTold]));
        const int64_t number = way(place)[kReceived] + (in < kHead ? 1 : 0);
        PyObject* answer = PyObject_CallFunction(whom, "LiinL", static_cast<long long>(place), static_cast<int>(what),
                                                 error, static_cast<Py_ssize_t>(in), static_cast<long long>(number));
        Py_XDECREF(answer);
        PyGILState_Release(state);
        return answer != nullptr;
    }
};

// One message each way.
struct Exchange {
    char head[kHead];
    char* arriving; // head and body
    size_t out, in;
};

uint16_t to_half(float number) {
    uint32_t bits;
    std::memcpy(&bits, &number, 4);
    if (number != number) return 0x7FC0;
    return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

float from_half(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float number;
    std::memcpy(&number, &bits, 4);
    return number;
}

// Parts side by side, and what is under way: kept, since a sum takes no longer than allocating them.
struct Rooms {
    std::vector<uint16_t> halves;
    std::vector<char> arriving;
    std::vector<Exchange> exchanges;
    std::vector<pollfd> waiting;
};

class Sum {
  public:
    Sum(const Circle& circle, float* part, int64_t count, Rooms& rooms) : circle_(circle), rooms_(rooms) {
        const bool half = circle[Circle::kHalf] != 0;
        size_ = static_cast<size_t>(count) * (half ? 2 : 4);
        own_ = reinterpret_cast<char*>(part);
        if (half) {
            rooms.halves.resize(static_cast<size_t>(count));
            std::transform(part, part + count, rooms.halves.begin(), to_half);
            own_ = reinterpret_cast<char*>(rooms.halves.data());
        }
        const size_t members = static_cast<size_t>(circle[Circle::kMembers]);
        // Bodies where float32 numbers may lie.
        const size_t stride = (kHead + size_ + 63) / 64 * 64;
        if (rooms.arriving.size() < members * stride) rooms.arriving.resize(members * stride);
        rooms.exchanges.resize(members);
        const uint64_t checksum = sum_of_words(own_, size_);
        for (size_t place = 0; place < members; ++place) {
            Exchange& one = rooms.exchanges[place];
            one.arriving = rooms.arriving.data() + place * stride;
            one.out = one.in = is_own(place) ? kHead + size_ : 0;
            if (!is_own(place)) write_head(one.head, checksum, ++circle.way(static_cast<int64_t>(place))[Circle::kSent]);
        }
    }

    bool exchanged() {
        const auto begun = Clock::now();
        const auto until = begun + std::chrono::microseconds(circle_[Circle::kLook]);
        for (;;) {
            bool moved = false, over = true;
            for (size_t place = 0; place < rooms_.exchanges.size(); ++place) {
                if (is_own(place)) continue;
                if (!pushed(place, moved) || !pulled(place, moved)) return false;
                const Exchange& one = rooms_.exchanges[place];
                over = over && one.out == kHead + size_ && one.in == kHead + size_;
            }
            if (over) break;
            if (!moved && Clock::now() >= until && !waited()) return false;
        }
        const auto taken = Clock::now() - begun;
        circle_[Circle::kLook] = taken < std::chrono::microseconds(2 * kSpin) ? kSpin : 0;
        circle_[Circle::kSums] += 1;
        circle_[Circle::kNanoseconds] += std::chrono::duration_cast<std::chrono::nanoseconds>(taken).count();
        return true;
    }

    void add_up(float* out, int64_t count) const {
        const size_t members = rooms_.exchanges.size();
        if (members > 2 && own_ == reinterpret_cast<char*>(out)) {
            // The sum of those before it will be where its own part is.
            const size_t place = static_cast<size_t>(circle_[Circle::kPlace]);
            std::memcpy(rooms_.exchanges[place].arriving + kHead, own_, size_);
        }
        const char *first = part(0, out), *second = part(1, out);
        for (int64_t i = 0; i < count; ++i) out[i] = number(first, i) + number(second, i);
        for (size_t place = 2; place < members; ++place) {
            const char* other = part(place, out);
            for (int64_t i = 0; i < count; ++i) out[i] += number(other, i);
        }
    }

  private:
    bool is_own(size_t place) const { return static_cast<int64_t>(place) == circle_[Circle::kPlace]; }

    void write_head(char* head, uint64_t checksum, int64_t number) const {
        const uint64_t sent = static_cast<uint64_t>(number);
        const uint32_t size = static_cast<uint32_t>(size_);
        std::memcpy(head, kMark, 4);
        std::memcpy(head + 4, &sent, 8);
        std::memcpy(head + 12, &size, 4);
        std::memcpy(head + 16, &checksum, 8);
        std::memset(head + 24, 0, 8);
    }

    // Hands over what the kernel takes.
    bool pushed(size_t place, bool& moved) {
        Exchange& one = rooms_.exchanges[place];
        if (one.out == kHead + size_) return true;
        iovec pieces[2];
        int count = 0;
        if (one.out < kHead) pieces[count++] = {one.head + one.out, kHead - one.out};
        const size_t of_body = one.out > kHead ? one.out - kHead : 0;
        pieces[count++] = {own_ + of_body, size_ - of_body};
        msghdr message{};
        message.msg_iov = pieces;
        message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(count);
        const ssize_t sent = ::sendmsg(descriptor(place), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && !again(errno)) return circle_.told(static_cast<int64_t>(place), kFailed, errno, one.in);
        one.out += static_cast<size_t>(std::max<ssize_t>(sent, 0));
        moved = moved || sent > 0;
        return true;
    }

    // Takes what is there, and looks at it.
    bool pulled(size_t place, bool& moved) {
        Exchange& one = rooms_.exchanges[place];
        const size_t had = one.in, whole = kHead + size_;
        if (had == whole) return true;
        const ssize_t got = ::recv(descriptor(place), one.arriving + had, whole - had, MSG_DONTWAIT);
        const int64_t at = static_cast<int64_t>(place);
        if (got == 0) return circle_.told(at, kEnded, 0, had);
        if (got < 0) return again(errno) || circle_.told(at, kFailed, errno, had);
        one.in += static_cast<size_t>(got);
        moved = true;
        if (had < kHead && one.in >= kHead && !is_due(one.arriving, ++circle_.way(at)[Circle::kReceived]))
            return circle_.told(at, kForeign, 0, one.in);
        uint64_t checksum;
        std::memcpy(&checksum, one.arriving + 16, 8);
        if (one.in == whole && checksum != sum_of_words(one.arriving + kHead, size_))
            return circle_.told(at, kDamaged, 0, one.in);
        return true;
    }

    bool is_due(const char* head, int64_t number) const {
        char wanted[kHead];
        write_head(wanted, 0, number);
        return std::memcmp(head, wanted, 16) == 0;
    }

    // Sleeps until somebody goes on; whoever does not for too long is told.
    bool waited() {
        rooms_.waiting.clear();
        for (size_t place = 0; place < rooms_.exchanges.size(); ++place) {
            const Exchange& one = rooms_.exchanges[place];
            const int events = (one.out < kHead + size_ ? POLLOUT : 0) | (one.in < kHead + size_ ? POLLIN : 0);
            if (events) rooms_.waiting.push_back({descriptor(place), static_cast<short>(events), 0});
        }
        if (::poll(rooms_.waiting.data(), static_cast<nfds_t>(rooms_.waiting.size()), kPatience) != 0) return true;
        for (size_t place = 0; place < rooms_.exchanges.size(); ++place) {
            const Exchange& one = rooms_.exchanges[place];
            const bool is_here = one.in == kHead + size_, is_over = one.out == kHead + size_ && is_here;
            // Who has sent its whole part and is slow to read is not in the middle of a message.
            const size_t in = is_here ? 0 : one.in;
            if (!is_over && !circle_.told(static_cast<int64_t>(place), kSilent, 0, in)) return false;
        }
        return true;
    }

    int descriptor(size_t place) const {
        return static_cast<int>(circle_.way(static_cast<int64_t>(place))[Circle::kDescriptor]);
    }

    const char* part(size_t place, const float* out) const {
        const bool is_overwritten = rooms_.exchanges.size() > 2 && own_ == reinterpret_cast<const char*>(out);
        return is_own(place) && !is_overwritten ? own_ : rooms_.exchanges[place].arriving + kHead;
    }

    float number(const char* part, int64_t at) const {
        if (circle_[Circle::kHalf]) return from_half(reinterpret_cast<const uint16_t*>(part)[at]);
        return reinterpret_cast<const float*>(part)[at];
    }

    const Circle& circle_;
    Rooms& rooms_;
    char* own_;
    size_t size_;
};

} // namespace

int direct_sum(void* circle, float* part, int64_t count) {
    static thread_local Rooms rooms;
    const Circle known = {static_cast<int64_t*>(circle)};
    Sum sum(known, part, count, rooms);
    if (!sum.exchanged()) return -1;
    sum.add_up(part, count);
    return 0;
}

} // namespace potluck
