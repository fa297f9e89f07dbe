// Mapped files that are cut, or cannot be read, while products run over them.
//
// The kernel answers a touch of such a page with SIGBUS, which would end the process. For addresses that were guarded the
// handler puts zeros in the place of the rest of the mapping and remembers that it did; whoever asked for the product
// looks afterwards and throws its result away.
#pragma once

#include <cstddef>
#include <cstdint>

namespace potluck {

// A slot for [address, address + size), or -1 when all are taken or the system has no such signal.
int guard(uintptr_t address, size_t size);
void unguard(int slot);
// Whether a page of this slot was missed since it was guarded.
bool was_missed(int slot);
// How many guarded mappings were missed so far; changes exactly when one is.
int64_t misses();

} // namespace potluck
