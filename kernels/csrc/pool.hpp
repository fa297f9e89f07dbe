// Threads that split one product's groups among them. They sleep between products: spinning would take the processors
// of the other workers on this machine.
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
        while (static_cast<int>(workers_.size()) + 1 < threads) {
            const int number = static_cast<int>(workers_.size());
            workers_.emplace_back([this, number] { work(number); });
        }
        threads_ = threads;
    }

    // work(begin, end) over [0, count) in pieces, some of them in this thread.
    void run(int64_t count, int64_t piece, const std::function<void(int64_t, int64_t)>& work) {
        if (threads_ <= 1 || count <= piece) {
            work(0, count);
            return;
        }
        std::lock_guard<std::mutex> turn(turn_);
        {
            std::lock_guard<std::mutex> guard(lock_);
            job_ = &work;
            count_ = count;
            piece_ = piece;
            next_.store(0);
            busy_ = threads_ - 1;
            ++round_;
        }
        wake_.notify_all();
        take();
        std::unique_lock<std::mutex> guard(lock_);
        done_.wait(guard, [this] { return busy_ == 0; });
    }

  private:
    void take() {
        for (int64_t begin; (begin = next_.fetch_add(piece_)) < count_;)
            (*job_)(begin, begin + piece_ < count_ ? begin + piece_ : count_);
    }

    void work(int number) {
        uint64_t seen = 0;
        for (;;) {
            {
                std::unique_lock<std::mutex> guard(lock_);
                wake_.wait(guard, [&] { return round_ != seen; });
                seen = round_;
                if (number >= threads_ - 1) continue;
            }
            take();
            std::lock_guard<std::mutex> guard(lock_);
            if (--busy_ == 0) done_.notify_one();
        }
    }

    std::mutex turn_, lock_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> workers_;
    const std::function<void(int64_t, int64_t)>* job_ = nullptr;
    std::atomic<int64_t> next_{0};
    int64_t count_ = 0, piece_ = 1;
    int busy_ = 0;
    uint64_t round_ = 0;
    int threads_ = 1;
};

} // namespace potluck
