#pragma once
// Memory that the kernel has not given pages to yet, as that of every large new tensor.

#include <cstddef>

namespace softmax_ext {

// Asks for pages of 2 MiB where at least kHugePageBytes are at `data`: writing to new memory costs as
// much as computing a softmax of it, most of it page by page. Linux only; not with
// SOFTMAX_EXT_HUGE_PAGES=0. What is there stays.
void advise_huge_pages(void* data, std::size_t bytes);

// From this size on glibc returns memory to the system when it is freed, so that it is always new.
// Below, the advice was measured to cost more than it brings where memory is used again.
inline constexpr std::size_t kHugePageBytes = std::size_t{32} << 20;

}  // namespace softmax_ext
