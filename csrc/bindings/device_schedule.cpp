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

const fs_cuda::Runtime& runtime() {
  const fs_cuda::Runtime* found = fs::cuda_runtime();
  TORCH_CHECK(found != nullptr, "fusedsched was built without CUDA.");
  return *found;
}

class DeviceSchedule {
 public:
  DeviceSchedule(at::Tensor table, at::Tensor clock, OptionalTensor updates, at::Tensor past_horizon,
                 py::object stream_of)
      : runtime_(runtime()), table_(std::move(table)), clock_(std::move(clock)),
        updates_(std::move(updates)), past_horizon_(std::move(past_horizon)), stream_of_(std::move(stream_of)) {
    fs::call_on(table_.device(), runtime_.load);
    args_.targets = static_cast<fs_cuda::ScheduledTarget*>(fs::unwrap(table_));
    args_.clock = fs::unwrap<int64_t>(clock_);
    args_.seen = args_.clock + 1;
    args_.updates = updates_ ? fs::unwrap<const int64_t>(*updates_) : nullptr;
    args_.past_horizon = fs::unwrap<int32_t>(past_horizon_);
    args_.n_targets = static_cast<int32_t>(table_.size(0));
  }

  void launch() const { fs::call_on(table_.device(), runtime_.schedule, stream(), args_); }

 private:
  int index() const { return table_.device().has_index() ? table_.device().index() : 0; }
  uint64_t stream() const { return stream_of_(index()).cast<uint64_t>(); }

  const fs_cuda::Runtime& runtime_;
  at::Tensor table_, clock_;
  OptionalTensor updates_;
  at::Tensor past_horizon_;
  py::object stream_of_;
  fs_cuda::DeviceSchedule args_{};
};

bool capturing(uint64_t stream) {
  bool answer = false;
  fs::check_cuda(runtime().capturing(stream, &answer));
  return answer;
}

void write_now(const at::Tensor& target, const at::Tensor& host) {
  TORCH_CHECK(target.nbytes() == host.nbytes() && target.is_contiguous() && host.is_contiguous());
  const fs_cuda::HostCopy copy{fs::unwrap(target), fs::unwrap<const void>(host), host.nbytes()};
  fs::call_on(target.device(), runtime().write, &copy, 1);
}

at::Tensor allocate(const at::Device& device, int64_t n) { return fs::beside_graphs(device, {n}, at::kDouble); }

}  // namespace

void bind_device_schedule(py::module_& m) {
  py::class_<DeviceSchedule>(m, "DeviceSchedule", "Launches of fusedsched/runtime/device_schedule.py on a GPU.")
      .def(py::init<at::Tensor, at::Tensor, OptionalTensor, at::Tensor, py::object>(), py::arg("table"),
           py::arg("clock"), py::arg("updates"), py::arg("past_horizon"), py::arg("stream_of"))
      .def("launch", &DeviceSchedule::launch);
  m.def("cuda_capturing", &capturing, py::arg("stream"));
  // Both while a graph is captured, of which they become no part: a copy from the host that is there at once, and float64
  // numbers that are never freed.
  m.def("cuda_write_now", &write_now, py::arg("target"), py::arg("host"));
  m.def("cuda_allocate", &allocate, py::arg("device"), py::arg("n"));
}
