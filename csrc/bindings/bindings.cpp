// SPDX-License-Identifier: Apache-2.0
// The module fusedsched._C: names for Python, nothing else.
#include "bindings/casters.h"
#include "core/schedule.h"
#include "plan/program.h"
#include "cpu/kernels.h"
#include "plan/cpu_plan.h"
#include "plan/cuda_plan.h"
#include "bindings/metric.h"
#include "bindings/device_schedule.h"
#include "bindings/layouts.h"
#include "bindings/threads.h"
#include "bindings/host_driver.h"

namespace {

using fs::OptionalTensor, fs::Plan;

std::vector<double> evaluate_many(const py::buffer& program, const std::vector<double>& clocks) {
  const py::buffer_info info = program.request();
  if (info.format != py::format_descriptor<double>::format()) {
    throw py::type_error("program must hold float64 numbers.");
  }
  fs::check_program(static_cast<const double*>(info.ptr), static_cast<size_t>(info.size));
  std::vector<double> out;
  out.reserve(clocks.size());
  for (double clock : clocks) {
    if (!(clock >= 0.0)) throw py::value_error("A clock must be 0 or more, got " + std::to_string(clock) + ".");
    out.push_back(fs::evaluate(static_cast<const double*>(info.ptr), clock));
  }
  return out;
}

// Lets Python's garbage collector look into plans.
void collectable(PyHeapTypeObject* heap_type) {
  PyTypeObject& type = heap_type->ht_type;
  type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    const auto held = reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder();
    return held.holder_constructed() ? static_cast<const fs::Plan*>(held.value_ptr())->traverse(visit, arg) : 0;
  };
}

// The exceptions of torch and of this package, as Python has them.
void bind_errors() {
  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p) fs::restore_python_error(p);
    } catch (const c10::ValueError& e) {
      PyErr_SetString(PyExc_ValueError, e.what_without_backtrace());
    } catch (const c10::TypeError& e) {
      PyErr_SetString(PyExc_TypeError, e.what_without_backtrace());
    } catch (const c10::Error& e) {
      PyErr_SetString(PyExc_RuntimeError, e.what_without_backtrace());
    }
  });
}

// A step is one call. Those that read or change what a step works on wait for their turn.
void bind_plan(py::module_& m) {
  py::class_<Plan> plan(m, "Plan", py::custom_type_setup(collectable));
  py::enum_<Plan::Outcome>(plan, "Outcome")
      .value("DONE", Plan::kDone)
      .value("REBUILD", Plan::kRebuild)
      .value("STATE_MISSING", Plan::kStateMissing)
      .value("DONE_WITH_EDITS", Plan::kDoneWithEdits)
      .value("IDLE", Plan::kIdle);
  plan.def("check",
           [](Plan& p, const py::list& g, const py::dict& s) {
             const Plan::Turn turn(p);
             return int(p.check_and_hold(g, s));
           })
      .def("pending", &Plan::pending)
      .def("apply",
           [](Plan& p, const OptionalTensor& scale, const OptionalTensor& found_inf, bool counts) {
             const Plan::Turn turn(p);
             return int(p.apply_held(scale, found_inf, counts));
           })
      .def("step",
           [](Plan& p, const py::list& g, const py::dict& s, const OptionalTensor& scale,
              const OptionalTensor& found_inf) {
             const Plan::Turn turn(p);
             return int(p.step(g, s, scale, found_inf));
           })
      .def("release",
           [](Plan& p) {
             const Plan::Turn turn(p);
             p.release();
           })
      .def("between_steps",
           [](Plan& p, const py::function& call) -> py::object {
             if (p.in_step()) return call();
             const Plan::Turn turn(p);
             return call();
           })
      .def("skip", [](Plan& p, const py::list& g, const at::Tensor& found_inf) { return int(p.skip(g, found_inf)); })
      .def("record_to", &Plan::record_to)
      .def("zero_grad", &Plan::zero_grad)
      .def("missing", &Plan::missing)
      .def("unsupported", &Plan::unsupported)
      .def("adopt",
           [](Plan& p, const std::vector<std::pair<int, int>>& which) {
             const Plan::Turn turn(p);
             p.adopt(which);
           })
      .def("exact_counts", &Plan::exact_counts)
      .def("adopt_counts", &Plan::adopt_counts)
      .def("set_program", &Plan::set_program)
      .def("advance", &Plan::advance)
      .def("advance_by", &Plan::advance_by)
      .def("check_counts", &Plan::check_counts)
      .def_property_readonly("device", &Plan::device)
      .def_property_readonly("name", &Plan::name);
}

void bind_backends(py::module_& m) {
  py::class_<fs::CpuPlan, Plan>(m, "CpuPlan", py::custom_type_setup(collectable))
      .def(py::init<py::object, py::object, py::list, py::dict, at::Tensor>(), py::arg("spec"), py::arg("optimizer"),
           py::arg("param_groups"), py::arg("state"), py::arg("clocks"));
  py::class_<fs::CudaPlan, Plan>(m, "CudaPlan", py::custom_type_setup(collectable))
      .def(py::init<py::object, py::object, py::list, py::dict, at::Tensor, at::Tensor, std::vector<at::Tensor>,
                    py::object>(),
           py::arg("spec"), py::arg("optimizer"), py::arg("param_groups"), py::arg("state"), py::arg("clocks"),
           py::arg("flags"), py::arg("rows"), py::arg("stream_of"))
      .def("sync_hparams", &fs::CudaPlan::sync_hparams)
      .def("capturing", &fs::CudaPlan::capturing)
      .def_property_readonly("captured", &fs::CudaPlan::captured);
  m.def("emulate_cuda", &fs::emulate_cuda);
  m.def("cuda_runtime", []() -> std::optional<std::string> {
    const fs_cuda::Runtime* runtime = fs::cuda_runtime();
    return runtime == nullptr ? std::nullopt : std::optional<std::string>(runtime->name);
  });
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  bind_errors();
  bind_plan(m);
  bind_backends(m);
  m.def("evaluate", &evaluate_many, py::arg("program"), py::arg("clocks"));
  m.def("isa", [] { return std::string(fs_cpu::kernels().isa); });
  m.def("threads_used", &fs::threads_used);
  m.def("trust_dict_tags", [](bool trust) { fs::WatchedDict::trust_tags = trust; });
  bind_layouts(m);
  bind_device_schedule(m);
  bind_host_driver(m);
  bind_metric(m);
}
