// depthwise_bank on CUDA: checks, layouts and allocation around the launchers of csrc/cuda/depthwise_bank.cu.
#include "cuda/depthwise_bank.h"

#include <optional>
#include <vector>

#include "common/cuda_tensor.h"
#include "common/depthwise_bank.h"

namespace partnas::cuda {
namespace {

// A bank and all that it points to.
struct Call {
  const char* name;
  Storage storage;
  BankShape shape{};
  BankDevice device{};
  Tensor x;
  std::vector<BankFilter> filters;
  std::vector<Tensor> kept;
  std::vector<const float*> weights;
  const float *statistics = nullptr, *scale = nullptr, *shift = nullptr;

  const float* numbers(const Tensor& t) {
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, name,
                    ": weights, statistics, scale and shift must be float32");
    check_device(x, t, name);
    kept.push_back(as_contiguous(t));
    return data<const float>(kept.back());
  }

  Call(const char* operator_name, const Tensor& input, const std::vector<Tensor>& filter_weights,
       const std::vector<int64_t>& dilations, int64_t stride, const std::optional<Tensor>& given_statistics,
       const std::optional<Tensor>& given_scale, const std::optional<Tensor>& given_shift)
      : name(operator_name), storage(storage_of(input, operator_name)), x(channels_last(input, operator_name)) {
    check_bank(x, filter_weights, dilations, stride, given_statistics, given_scale, given_shift, name);
    shape = {x.size(0), x.size(1), x.size(2), x.size(3), stride, static_cast<int64_t>(filter_weights.size())};
    STD_TORCH_CHECK(shape.batch * shape.height * shape.width < (int64_t(1) << 31) - 32, name,
                    ": x has too many pixels; split the batch");
    for (size_t f = 0; f < dilations.size(); ++f) {
      const Tensor& w = filter_weights[f];
      filters.push_back({w.size(1), dilations[f], 0});
      weights.push_back(numbers(w));
    }
    if (given_statistics) statistics = numbers(*given_statistics);
    if (given_scale) {
      scale = numbers(*given_scale);
      shift = numbers(*given_shift);
    }
  }
  Call(const Call&) = delete;

  int64_t map_height() const { return (shape.height + shape.stride - 1) / shape.stride; }
  int64_t map_width() const { return (shape.width + shape.stride - 1) / shape.stride; }
};

std::vector<Tensor> bank(Tensor input, std::vector<Tensor> weights, std::vector<int64_t> dilations,
                                   int64_t stride, std::optional<Tensor> statistics, std::optional<Tensor> scale,
                                   std::optional<Tensor> shift, double eps, bool relu) {
  const DeviceGuard guard(input);
  Call call("depthwise_bank", input, weights, dilations, stride, statistics, scale, shift);
  std::vector<Tensor> maps;
  std::vector<void*> pointers;
  for (size_t f = 0; f < weights.size(); ++f) {
    maps.push_back(empty_map(call.x, call.shape.batch, call.shape.channels, call.map_height(), call.map_width(),
                             call.x.scalar_type()));
    pointers.push_back(maps.back().data_ptr());
  }
  check(depthwise_bank(call.storage, call.shape, call.filters.data(), bank_device(), call.x.data_ptr(),
                             call.weights.data(), call.statistics, call.scale, call.shift, static_cast<float>(eps),
                             relu, pointers.data(), current_stream(call.x)),
        call.name);
  return maps;
}

std::vector<Tensor> bank_backward(std::vector<Tensor> gradients, Tensor input, std::vector<Tensor> weights,
                                            std::vector<int64_t> dilations, int64_t stride,
                                            std::optional<Tensor> statistics, std::optional<Tensor> scale,
                                            std::optional<Tensor> shift, double eps, bool relu,
                                            std::vector<int64_t> needs, bool before_norm) {
  const DeviceGuard guard(input);
  Call call("depthwise_bank_backward", input, weights, dilations, stride, statistics, scale, shift);
  const int64_t channels = call.shape.channels;
  STD_TORCH_CHECK(gradients.size() == weights.size() && needs.size() == weights.size() + 3, call.name,
                  ": give a gradient for each filter, and needs for x, scale, shift and each");

  std::vector<Tensor> found;
  void* x_gradient = nullptr;
  if (needs[0]) {
    found.push_back(empty_like_map(call.x));
    x_gradient = found.back().data_ptr();
  }
  float* affine[2] = {};
  for (const size_t which : {0, 1}) {
    if (!needs[1 + which]) continue;
    found.push_back(empty(call.x, {channels}, ScalarType::Float));
    affine[which] = data<float>(found.back());
  }
  // Filters that nobody asks anything of are left out.
  std::vector<const void*> read;
  std::vector<float*> weight_gradients;
  std::vector<BankFilter> filters;
  std::vector<const float*> taps;
  for (size_t f = 0; f < weights.size(); ++f) {
    Tensor& gradient = gradients[f];
    check_bank_gradient(gradient, call.x, call.map_height(), call.map_width(), call.name);
    if (!needs[0] && !needs[1] && !needs[2] && !needs[3 + f]) continue;
    check_device(call.x, gradient, call.name);
    gradient = channels_last(gradient, call.name);
    read.push_back(gradient.data_ptr());
    weight_gradients.push_back(nullptr);
    if (needs[3 + f]) {
      const int64_t size = call.filters[f].size;
      found.push_back(empty(call.x, {channels, size, size}, ScalarType::Float));
      weight_gradients.back() = data<float>(found.back());
    }
    filters.push_back({call.filters[f].size, call.filters[f].dilation, needs[3 + f] != 0});
    taps.push_back(call.weights[f]);
  }
  call.shape.filters = static_cast<int64_t>(filters.size());
  if (call.x.numel() == 0 || filters.empty()) {
    for (Tensor& t : found) torch::stable::zero_(t);
    return found;
  }
  const BankDevice device = bank_device();
  const int64_t room = depthwise_bank_workspace(call.storage, call.shape, filters.data(), device);
  const Tensor workspace = empty(call.x, {room}, ScalarType::Float);
  check(depthwise_bank_backward(call.storage, call.shape, filters.data(), device, read.data(), call.x.data_ptr(),
                                      taps.data(), call.statistics, call.scale, call.shift, static_cast<float>(eps),
                                      relu, before_norm, x_gradient, affine[0], affine[1], weight_gradients.data(),
                                      data<float>(workspace), room, current_stream(call.x)),
        call.name);
  return found;
}

}  // namespace
}  // namespace partnas::cuda

STABLE_TORCH_LIBRARY_IMPL(partnas, CUDA, m) {
  m.impl("depthwise_bank", TORCH_BOX(&partnas::cuda::bank));
  m.impl("depthwise_bank_backward", TORCH_BOX(&partnas::cuda::bank_backward));
}
