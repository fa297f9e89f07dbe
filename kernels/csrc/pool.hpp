// Threads that split one product's groups among them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace potluck {

class Pool {
  public:
    static Pool& shared() {
        static Pool* pool = new Pool; // never destroyed: its threads may outlive static objects
        return *pool;
    }

    void resize(int threads) {
        std::lock_guard<std::mutex> turn(turn_);
        threads_.store(threads);
        while (static_cast<int>(workers_.size()) + 1 < threads) {
            const int number = static_cast<int>(workers_.size());
            workers_.emplace_back([this, number, seen = round_.load()] { work(number, seen); });
        }
    }

    // work(begin, end) over [0, count) in pieces, some of them in this thread.
    void run(int64_t count, int64_t piece, const std::function<void(int64_t, int64_t)>& work) {
        if (threads_.load() <= 1 || count <= piece) {
            work(0, count);
            return;
        }
        std::lock_guard<std::mutex> turn(turn_);
        job_ = &work;
        count_ = count;
        piece_ = piece;
        next_.store(0);
        busy_.store(threads_.load() - 1);
        round_.fetch_add(1);
        if (sleepers_.load() > 0) {
            std::lock_guard<std::mutex> guard(lock_);
            wake_.notify_all();
        }
        take();
        for (int spins = 0; busy_.load() > 0; ++spins)
            spins < kSpins ? relax() : std::this_thread::yield();
    }

  private:
    // About 50 us: the next product of a layer comes within that. Then they sleep, since spinning for longer would take
    // the processors of other workers on this machine.
    static constexpr int kSpins = 1000;

    static void relax() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }

    void take() {
        for (int64_t begin; (begin = next_.fetch_add(piece_)) < count_;)
            (*job_)(begin, begin + piece_ < count_ ? begin + piece_ : count_);
    }

    void await(uint64_t seen) {
        for (int spins = 0; spins < kSpins; ++spins) {
            if (round_.load() != seen) return;
            relax();
        }
        std::unique_lock<std::mutex> guard(lock_);
        sleepers_.fetch_add(1);
        wake_.wait(guard, [&] { return round_.load() != seen; });
        sleepers_.fetch_sub(1);
    }

    void work(int number, uint64_t seen) {
        for (;;) {
            await(seen);
            seen = round_.load();
            if (number >= threads_.load() - 1) continue;
            take();
            busy_.fetch_sub(1);
        }
    }

    std::mutex turn_, lock_;
    std::condition_variable wake_;
    std::vector<std::thread> workers_;
    const std::function<void(int64_t, int64_t)>* job_ = nullptr;
    std::atomic<int64_t> next_{0};
    int64_t count_ = 0, piece_ = 1;
    std::atomic<int> busy_{0}, sleepers_{0}, threads_{1};
    std::atomic<uint64_t> round_{0};
};

} // namespace potluck
