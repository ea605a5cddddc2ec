// SPDX-License-Identifier: Apache-2.0
#include "bindings/device_schedule.h"

#include <string>
#include <utility>

#include "bindings/casters.h"
#include "plan/cuda_batch.h"
#include "plan/tensors.h"

namespace {

namespace py = pybind11;
using OptionalTensor = std::optional<at::Tensor>;

class Rates {
 public:
  Rates(at::Tensor table, at::Tensor clock, OptionalTensor updates, at::Tensor past_horizon, py::object stream_of)
      : runtime_(fs::cuda_runtime()), table_(std::move(table)), clock_(std::move(clock)),
        updates_(std::move(updates)), past_horizon_(std::move(past_horizon)), stream_of_(std::move(stream_of)) {
    TORCH_CHECK(runtime_ != nullptr, "fusedsched was built without CUDA.");
    args_.rates = static_cast<fs_cuda::Rate*>(fs::unwrap(table_));
    args_.clock = fs::unwrap<int64_t>(clock_);
    args_.seen = args_.clock + 1;
    args_.updates = updates_ ? fs::unwrap<const int64_t>(*updates_) : nullptr;
    args_.past_horizon = fs::unwrap<int32_t>(past_horizon_);
    args_.n_rates = static_cast<int32_t>(table_.size(0));
  }

  void launch() const { fs::check_cuda(runtime_->rates(index(), stream(), args_)); }

 private:
  int index() const { return table_.device().has_index() ? table_.device().index() : 0; }
  uint64_t stream() const { return stream_of_(index()).cast<uint64_t>(); }

  const fs_cuda::Runtime* runtime_;
  at::Tensor table_, clock_;
  OptionalTensor updates_;
  at::Tensor past_horizon_;
  py::object stream_of_;
  fs_cuda::Rates args_{};
};

}  // namespace

void bind_rates(py::module_& m) {
  py::class_<Rates>(m, "Rates", "Launches of fusedsched/_rates.py on a GPU.")
      .def(py::init<at::Tensor, at::Tensor, OptionalTensor, at::Tensor, py::object>(), py::arg("table"),
           py::arg("clock"), py::arg("updates"), py::arg("past_horizon"), py::arg("stream_of"))
      .def("launch", &Rates::launch);
  m.def("cuda_capturing", [](uint64_t stream) {
    bool answer = false;
    fs::check_cuda(fs::cuda_runtime()->capturing(stream, &answer));
    return answer;
  });
}
