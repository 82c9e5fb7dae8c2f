#pragma once
// Which mapping of rows to threads a row length takes: one table per pass, the first row that fits
// is used. Plain C++, tested without a GPU.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

namespace softmax_ext::cuda {

enum class Pass { forward, backward };

enum class Mapping {
  warp_per_row,  // cuda/warp_per_row.cuh
};

struct LaunchPolicy {
  int64_t max_length;
  Mapping mapping;
  int lanes_per_row;
  int elements_per_lane;
  int threads_per_block;
};

// Row length <=, mapping, lanes per row, elements per lane, threads per block.
inline constexpr auto kForwardPolicies = std::to_array<LaunchPolicy>({
    {  64, Mapping::warp_per_row,  8,  8, 128}, // not yet measured
    { 128, Mapping::warp_per_row, 16,  8, 128}, // not yet measured
    { 256, Mapping::warp_per_row, 32,  8, 128}, // not yet measured
    { 512, Mapping::warp_per_row, 32, 16, 128}, // not yet measured
    {1024, Mapping::warp_per_row, 32, 32, 128}, // not yet measured
});

inline constexpr auto kBackwardPolicies = std::to_array<LaunchPolicy>({
    {  64, Mapping::warp_per_row,  8,  8, 128}, // not yet measured
    { 128, Mapping::warp_per_row, 16,  8, 128}, // not yet measured
    { 256, Mapping::warp_per_row, 32,  8, 128}, // not yet measured
    { 512, Mapping::warp_per_row, 32, 16, 128}, // not yet measured
    {1024, Mapping::warp_per_row, 32, 32, 128}, // not yet measured
});

constexpr std::span<const LaunchPolicy> policies_of(Pass pass) {
  return pass == Pass::forward ? std::span<const LaunchPolicy>(kForwardPolicies)
                               : kBackwardPolicies;
}

// The first row of the table that holds `length`, or nothing when the length is beyond its last.
constexpr std::optional<std::size_t> choose_policy(
    std::span<const LaunchPolicy> table, int64_t length) {
  for (std::size_t i = 0; i < table.size(); ++i)
    if (length <= table[i].max_length) return i;
  return std::nullopt;
}
constexpr std::optional<std::size_t> choose_policy(int64_t length, Pass pass) {
  return choose_policy(policies_of(pass), length);
}

constexpr int64_t max_length(Pass pass) { return policies_of(pass).back().max_length; }

// A row of a table as a type, for kernels: nvcc cannot name a kernel with the struct as argument.
template <const auto& table, std::size_t index>
struct PolicyAt {
  static constexpr LaunchPolicy kValue = table[index];
};

// body.template operator()<PolicyAt<…>>() with the policy for `length`, else `otherwise`.
template <const auto& table, typename Result, typename Body>
constexpr Result with_policy(int64_t length, Result otherwise, Body&& body) {
  const auto chosen = choose_policy(table, length);
  Result result = otherwise;
  const auto call_chosen = [&]<std::size_t... i>(std::index_sequence<i...>) {
    ((chosen == i && (result = body.template operator()<PolicyAt<table, i>>(), true)) || ...);
  };
  call_chosen(std::make_index_sequence<table.size()>{});
  return result;
}

constexpr bool bounds_ascend(std::span<const LaunchPolicy> table) {
  for (std::size_t i = 0; i + 1 < table.size(); ++i)
    if (table[i].max_length >= table[i + 1].max_length) return false;
  return true;
}

constexpr bool is_warp_per_row_sound(const LaunchPolicy& policy) {
  return std::has_single_bit(static_cast<unsigned>(policy.lanes_per_row)) &&
         policy.lanes_per_row <= 32 &&
         policy.lanes_per_row * policy.elements_per_lane == policy.max_length &&
         // A pack of 16 bytes has up to 8 elements.
         policy.elements_per_lane % 8 == 0 && policy.threads_per_block % 32 == 0 &&
         policy.threads_per_block >= 32 && policy.threads_per_block <= 1024;
}

constexpr bool is_sound(std::span<const LaunchPolicy> table) {
  for (const LaunchPolicy& policy : table)
    if (policy.mapping == Mapping::warp_per_row && !is_warp_per_row_sound(policy)) return false;
  return !table.empty() && bounds_ascend(table);
}

static_assert(is_sound(kForwardPolicies));
static_assert(is_sound(kBackwardPolicies));

}  // namespace softmax_ext::cuda
