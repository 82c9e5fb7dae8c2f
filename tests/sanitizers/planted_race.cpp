// What ThreadSanitizer must report of a parallel loop, and what it must not: `planted_race 0` and `planted_race 1`.

#include <ATen/Parallel.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  const bool race = argc > 1 && std::string(argv[1]) == "1";
  at::set_num_threads(2);
  std::vector<int64_t> values(1 << 16, 1), sums(2);
  for (int round = 0; round < 10; ++round)  // each region reads what the one before has written
    at::parallel_for(0, 2, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part)
        for (int64_t i = part << 15; i < (part + 1) << 15; ++i) {
          values[i ^ 1] += 1;
          sums[race ? 0 : part] += values[i];
        }
    });
  std::printf("%lld\n", static_cast<long long>(sums[0] + sums[1]));
}
