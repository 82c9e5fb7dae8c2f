#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

#include "csrc/numerics/philox.h"

namespace softmax_ext {
namespace {

void expect_words(PhiloxCounter counter, PhiloxKey key, PhiloxCounter expected) {
  const PhiloxCounter actual = philox4x32(counter, key);
  EXPECT_TRUE(std::equal(actual.words, actual.words + 4, expected.words))
      << std::hex << actual.words[0] << " " << actual.words[1] << " " << actual.words[2] << " "
      << actual.words[3];
}

// The known answers for philox4x32-10 that its authors publish with the Random123 library.
TEST(Philox, GivesTheKnownAnswersOfItsAuthors) {
  constexpr uint32_t kOnes = 0xffffffff;
  expect_words(
      {
          {0, 0, 0, 0}
  },
      {{0, 0}},
      {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  expect_words(
      {
          {kOnes, kOnes, kOnes, kOnes}
  },
      {{kOnes, kOnes}},
      {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  expect_words(
      {
          {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}
  },
      {{0xa4093822, 0x299f31d0}},
      {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
}

TEST(Philox, EachOfSeedRowAndSampleGivesOtherUniforms) {
  const double first = uniform_of(1, 2, 3);
  constexpr uint64_t kHigh = uint64_t{1} << 32;
  for (const double other :
       {uniform_of(2, 2, 3),
        uniform_of(1, 3, 3),
        uniform_of(1, 2, 4),
        uniform_of(1 + kHigh, 2, 3),
        uniform_of(1, 2 + kHigh, 3),
        uniform_of(1, 2, 3 + kHigh)})
    EXPECT_NE(other, first);
}

TEST(Philox, UniformsAreMultiplesOf2ToMinus53Below1AndEven) {
  constexpr int kCount = 100'000;
  int of_tenth[10] = {};
  for (int i = 0; i < kCount; ++i) {
    const double u = uniform_of(7, 0, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    ASSERT_EQ(u * 0x1p53, static_cast<double>(static_cast<uint64_t>(u * 0x1p53)));
    ++of_tenth[static_cast<int>(u * 10)];
  }
  // Five standard deviations of a count.
  for (const int count : of_tenth) EXPECT_NEAR(count, kCount / 10.0, 5 * 95);
}

}  // namespace
}  // namespace softmax_ext
