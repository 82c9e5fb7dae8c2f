// Runs a package made by make_package.py, a model that was compiled ahead of time, on inputs saved by
// Python, and saves what it returns. There is no Python in this program; the operators are those of
// the library that it is linked with.

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <utility>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: " << argv[0] << " model.pt2 inputs.pt outputs.pt\n";
    return 2;
  }
  std::ifstream file(argv[2], std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<at::Tensor> inputs;
  for (const at::IValue& input : torch::jit::pickle_load(bytes).toList().vec())
    inputs.push_back(input.toTensor());

  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  const std::vector<at::Tensor> outputs = model.run(inputs);

  std::vector<at::IValue> results(outputs.begin(), outputs.end());
  const std::vector<char> saved =
      torch::jit::pickle_save(c10::ivalue::Tuple::create(std::move(results)));
  std::ofstream(argv[3], std::ios::binary).write(saved.data(), std::ssize(saved));
  std::cout << inputs.size() << " inputs, " << outputs.size() << " outputs\n";
}
