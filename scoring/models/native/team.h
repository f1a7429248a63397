// Rows shared out among threads, when there are many.
#pragma once

#include <algorithm>

namespace {

constexpr long ROWS_PER_THREAD = 4;

int team(long rows, int threads) {
    return (int)std::clamp<long>(rows / ROWS_PER_THREAD, 1, threads);
}

}  // namespace
