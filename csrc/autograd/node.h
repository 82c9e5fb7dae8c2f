#pragma once
// The backward Node of a primitive, as ATen's own generated code has it, from what is particular to
// the primitive:
//
//   struct SoftmaxNode : OpNode<SoftmaxNode> {
//     static constexpr const char* kName = "SoftmaxExtBackward0";
//     SavedOutput probs;
//     int64_t dim;
//     auto members() { return std::tie(probs, dim); }
//     static variable_list vjp(
//         const variable_list& grads, const std::vector<bool>& needed, const Tensor& probs,
//         int64_t dim);
//   };
//
// OpNode does locking, release, undefined gradients and compiled autograd. `vjp` receives the
// members' values in order and returns one gradient per input (undefined where not needed). It
// calls dispatcher operators only: that makes every higher order of derivative, vmap and tracing
// work.
//
// An Autograd kernel goes in this order: node_for, the primitive below autograd, set_history, the
// forward gradient, the saved values, node_ready.
//
// Torch 2.11 holds Nodes by std::shared_ptr, 2.13 and later by c10::intrusive_ptr; NodePtr is
// whichever it is. torch::autograd::Function is no way out: functorch refuses it and it has no
// forward mode.

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace softmax_ext::autograd {

namespace torch_autograd = torch::autograd;
namespace compiled = torch::dynamo::autograd;
using at::Tensor;
using std::optional;
using torch_autograd::variable_list;

// A saved input or output of the primitive; empty until a defined tensor is assigned. An output is
// saved after set_history and after its forward gradient is set.
template <bool is_output>
struct Saved {
  optional<torch_autograd::SavedVariable> variable;

  Saved& operator=(const Tensor& tensor) {
    if (tensor.defined()) variable.emplace(tensor, is_output);
    return *this;
  }
  Saved& operator=(const optional<Tensor>& tensor) { return tensor ? *this = *tensor : *this; }
};
using SavedInput = Saved<false>;
using SavedOutput = Saved<true>;

// What OpNode does with a member, by its kind: a saved tensor, or a plain value (int64_t, double,
// c10::SymInt, …). An empty saved tensor comes back as an undefined one.
namespace member {

template <bool is_output>
Tensor value(Saved<is_output>& saved, torch_autograd::Node& node) {
  if (!saved.variable) return Tensor();
  if constexpr (is_output)
    return saved.variable->unpack(node.getptr());
  else
    return saved.variable->unpack();
}
template <bool is_output>
void release(Saved<is_output>& saved) {
  if (saved.variable) saved.variable->reset_data();
}
template <bool is_output>
void collect(compiled::CompiledNodeArgs& args, Saved<is_output>& saved) {
  args.collect(saved.variable.has_value());
  if (saved.variable) args.collect(*saved.variable, is_output);
}
template <bool is_output>
void before(compiled::SwapSavedVariables& swap, Saved<is_output>& saved) {
  if (saved.variable) swap.before(*saved.variable);
}
template <bool is_output>
void after(compiled::SwapSavedVariables& swap, Saved<is_output>& saved) {
  if (saved.variable) swap.after(*saved.variable);
}

template <typename Plain>
Plain value(Plain& plain, torch_autograd::Node&) {
  return plain;
}
template <typename Plain>
void release(Plain&) {}
template <typename Plain>
void collect(compiled::CompiledNodeArgs& args, Plain& plain) {
  args.collect(plain);
}
template <typename Plain>
void before(compiled::SwapSavedVariables& swap, Plain& plain) {
  swap.before(plain);
}
template <typename Plain>
void after(compiled::SwapSavedVariables& swap, Plain& plain) {
  swap.after(plain);
}

template <typename Member>
using Value = decltype(value(std::declval<Member&>(), std::declval<torch_autograd::Node&>()));

}  // namespace member

template <typename Self>
struct OpNode : torch_autograd::Node {
  std::string name() const override { return Self::kName; }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::apply([](auto&... members) { (member::release(members), ...); }, self().members());
  }

  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::apply(
        [&](auto&... members) {
          return gradients(grads, needed(), member::value(members, *this)...);
        },
        self().members());
  }

  void compiled_args(compiled::CompiledNodeArgs& args) const override {
    std::apply(
        [&](auto&... members) { (member::collect(args, members), ...); },
        const_cast<OpNode*>(this)->self().members());
  }

  // Compiled autograd captures with tensors that hold no data, so the formula must not run here: it
  // is bound once as a function of IValues, and the captured graph calls that.
  variable_list apply_with_saved(
      const variable_list& grads, compiled::SwapSavedVariables& swap) override {
    return std::apply(
        [&]<typename... Members>(Members&... members) {
          (member::before(swap, members), ...);
          compiled::PackedArgs packed;
          packed.pack(needed());
          (packed.pack(member::value(members, *this)), ...);
          const auto& python = compiled::getPyCompilerInterface();
          static const std::string bound = python->bind_function(
              swap.get_py_compiler(),
              Self::kName,
              [](const variable_list& incoming, const std::vector<c10::IValue>& stack) {
                compiled::PackedArgs args(stack);
                const auto wanted = args.unpack<std::vector<bool>>();
                // Braces, as they evaluate from left to right.
                std::tuple<member::Value<Members>...> values{
                    args.unpack<member::Value<Members>>()...};
                return std::apply(
                    [&](auto&... unpacked) { return gradients(incoming, wanted, unpacked...); },
                    values);
              },
              {compiled::IValuePacker<std::vector<bool>>::packed_type(),
               compiled::IValuePacker<member::Value<Members>>::packed_type()...});
          auto results = python->call_function(
              swap.get_py_compiler(),
              "apply_functional",
              bound,
              grads,
              packed.vec(),
              compiled::IValuePacker<std::vector<optional<torch_autograd::InputMetadata>>>::pack(
                  compiled::get_input_metadata(next_edges())));
          (member::after(swap, members), ...);
          return results;
        },
        self().members());
  }

 private:
  Self& self() { return static_cast<Self&>(*this); }

  std::vector<bool> needed() const {
    std::vector<bool> inputs(num_outputs());
    for (size_t i = 0; i < inputs.size(); ++i) inputs[i] = task_should_compute_output(i);
    return inputs;
  }

  template <typename... Values>
  static variable_list gradients(
      const variable_list& grads, const std::vector<bool>& needed, const Values&... values) {
    for (const auto& grad : grads)
      if (grad.defined()) return Self::vjp(grads, needed, values...);
    return variable_list(needed.size());
  }
};

using AnyNodePtr = decltype(std::declval<torch_autograd::Node&>().getptr());

template <typename NodeType>
auto make_node() {
  if constexpr (std::is_same_v<AnyNodePtr, std::shared_ptr<torch_autograd::Node>>)
    // torch's deleter frees a long graph without recursion. Found by argument: later versions do
    // not have it.
    return std::shared_ptr<NodeType>(new NodeType(), [](auto* node) { deleteNode(node); });
  else
    return c10::make_intrusive<NodeType>();
}
template <typename NodeType>
using NodePtr = decltype(make_node<NodeType>());

// A node with an edge to each input (an optional one that is absent has an empty edge), or null
// when none requires a gradient.
template <typename NodeType, typename... Inputs>
NodePtr<NodeType> node_for(const Inputs&... inputs) {
  NodePtr<NodeType> node;
  if (torch_autograd::compute_requires_grad(inputs...)) {
    node = make_node<NodeType>();
    node->set_next_edges(torch_autograd::collect_next_edges(inputs...));
  }
  return node;
}

// Last of all: torch 2.15 and later tell their node creation hooks. The pointer type is a template
// parameter so that the function is looked up by argument where it exists.
template <typename Pointer = AnyNodePtr>
void node_ready(const std::type_identity_t<Pointer>& node) {
  if constexpr (requires { fire_node_creation_hooks(node); }) fire_node_creation_hooks(node);
}

template <typename... Inputs>
bool has_forward_gradient(const Inputs&... inputs) {
  return (torch_autograd::isFwGradDefined(inputs) || ...);
}

}  // namespace softmax_ext::autograd
