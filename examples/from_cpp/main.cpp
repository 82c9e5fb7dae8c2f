// Trains a module saved by make_module.py, whose code uses the operators; then calls an operator
// through the C++ API. There is no Python in this program.

#include <softmax_ext/softmax_ext.h>
#include <torch/optim/sgd.h>
#include <torch/script.h>

#include <iostream>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: " << argv[0] << " classifier.pt\n";
    return 2;
  }
  torch::manual_seed(0);
  auto classifier = torch::jit::load(argv[1]);
  const auto features = torch::randn({64, 20});
  const auto labels = torch::randint(5, {64});

  std::vector<torch::Tensor> parameters;
  for (const auto& parameter : classifier.parameters()) parameters.push_back(parameter);
  torch::optim::SGD optimizer(parameters, /*lr=*/0.5);

  const auto loss_of = [&] { return classifier.get_method("loss")({features, labels}).toTensor(); };
  const auto before = loss_of();
  for (int step = 0; step < 100; ++step) {
    optimizer.zero_grad();
    loss_of().backward();
    optimizer.step();
  }
  const auto after = loss_of();
  std::cout << "loss before training " << before.item<double>() << ", after "
            << after.item<double>() << '\n';

  const auto logits = torch::tensor({
      {0.0, 1.0, 2.0}
  });
  std::cout << "softmax of 0 1 2, and at temperature 0.5:\n"
            << softmax_ext::softmax(logits, -1) << '\n'
            << softmax_ext::softmax(logits, -1, std::nullopt, 0.5) << '\n';
  return after.item<double>() < before.item<double>() / 2 ? 0 : 1;
}
