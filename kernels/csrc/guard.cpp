#include "guard.hpp"

#if defined(__unix__) || defined(__APPLE__)

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <mutex>

namespace potluck {
namespace {

constexpr int kSlots = 4096;

struct Slot {
    std::atomic<uintptr_t> begin{0}, end{0};
    std::atomic<bool> missed{false}, taken{false};
};

Slot g_slots[kSlots];
std::atomic<int> g_used{0}; // slots below were taken at some time
std::atomic<int64_t> g_misses{0};
struct sigaction g_before;
uintptr_t g_page = 4096;

void missed(int, siginfo_t* info, void*) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
    bool found = false;
    for (int i = 0; i < g_used.load(); ++i) {
        const uintptr_t begin = g_slots[i].begin.load(), end = g_slots[i].end.load();
        if (address < begin || address >= end) continue;
        const uintptr_t page = address / g_page * g_page;
        void* zeros = mmap(reinterpret_cast<void*>(page), end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (zeros == MAP_FAILED) break;
        g_slots[i].missed.store(true);
        g_misses.fetch_add(1);
        found = true;
    }
    if (found) return;
    sigaction(SIGBUS, &g_before, nullptr); // the touch is repeated, and meets whoever was there before
}

void install() {
    static std::once_flag once;
    std::call_once(once, [] {
        g_page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
        struct sigaction action = {};
        action.sa_sigaction = missed;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGBUS, &action, &g_before);
    });
}

} // namespace

int guard(uintptr_t address, size_t size) {
    install();
    for (int i = 0; i < kSlots; ++i) {
        bool free = false;
        if (!g_slots[i].taken.compare_exchange_strong(free, true)) continue;
        g_slots[i].missed.store(false);
        g_slots[i].end.store(address + size);
        g_slots[i].begin.store(address);
        for (int used = g_used.load(); used <= i && !g_used.compare_exchange_weak(used, i + 1);) {}
        return i;
    }
    return -1;
}

void unguard(int slot) {
    if (slot < 0 || slot >= kSlots) return;
    g_slots[slot].end.store(0);
    g_slots[slot].begin.store(0);
    g_slots[slot].taken.store(false);
}

bool was_missed(int slot) { return slot >= 0 && slot < kSlots && g_slots[slot].missed.load(); }

int64_t misses() { return g_misses.load(); }

} // namespace potluck

#else

namespace potluck {
int guard(uintptr_t, size_t) { return -1; }
void unguard(int) {}
bool was_missed(int) { return false; }
int64_t misses() { return 0; }
} // namespace potluck

#endif
