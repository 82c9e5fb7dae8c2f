#pragma once
// EXPECT_TRUE(reports("an extended regular expression", [] { … })): whether run() throws such an
// Error.

#include <gtest/gtest.h>
#include <regex.h>

#include <string>

#include "tests/simt/executor.h"

namespace softmax_ext::simt {

inline bool matches(const char* text, const std::string& pattern) {
  regex_t compiled;
  if (regcomp(&compiled, pattern.c_str(), REG_EXTENDED | REG_NOSUB) != 0)
    throw std::invalid_argument(pattern);
  const bool is_match = regexec(&compiled, text, 0, nullptr, 0) == 0;
  regfree(&compiled);
  return is_match;
}

template <typename Run>
testing::AssertionResult reports(const std::string& pattern, Run run) {
  try {
    run();
  } catch (const Error& error) {
    if (matches(error.what(), pattern)) return testing::AssertionSuccess();
    return testing::AssertionFailure() << "expected: " << pattern << "\nwas: " << error.what();
  }
  return testing::AssertionFailure() << "expected: " << pattern << "\nbut no error was reported";
}

}  // namespace softmax_ext::simt
