// A sum by direct exchange among the members of a group, without a line of Python while all goes well.
//
// What is known of the group is said by integers, which proto/direct_sum.py writes down in this order:
//
//   place, members, whether parts travel in bfloat16, whom to tell of trouble (a Python callable: place, what, errno,
//   bytes received of its message, the message's number), microseconds to look before sleeping; sums and nanoseconds so far; for each
//   member: descriptor, messages sent, messages received
#pragma once

#include <cstdint>

namespace potluck {

// Makes `count` numbers of this member's part the sum of all parts, added in the order of places. Not 0 where whom it
// told of trouble raised an error, which is Python's then. Called without the GIL.
int direct_sum(void* circle, float* part, int64_t count);

} // namespace potluck
