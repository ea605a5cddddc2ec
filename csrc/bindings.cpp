// SPDX-License-Identifier: Apache-2.0
// The module fusedsched._C: names for Python, nothing else.
#include <torch/extension.h>

#include "core/schedule.h"
#include "cpu/kernels.h"
#include "plan.h"
#include "threads.h"
#include "track.h"

namespace {

std::vector<double> evaluate_many(const py::buffer& program, const std::vector<double>& clocks) {
  const py::buffer_info info = program.request();
  if (info.format != py::format_descriptor<double>::format()) {
    throw py::type_error("program must hold float64 numbers.");
  }
  std::vector<double> out;
  out.reserve(clocks.size());
  for (double clock : clocks) out.push_back(fs::evaluate(static_cast<const double*>(info.ptr), clock));
  return out;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using fs::Plan;
  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const c10::ValueError& e) {
      PyErr_SetString(PyExc_ValueError, e.what_without_backtrace());
    } catch (const c10::TypeError& e) {
      PyErr_SetString(PyExc_TypeError, e.what_without_backtrace());
    } catch (const c10::Error& e) {
      PyErr_SetString(PyExc_RuntimeError, e.what_without_backtrace());
    }
  });

  py::class_<Plan> plan(m, "Plan");
  py::enum_<Plan::Outcome>(plan, "Outcome")
      .value("DONE", Plan::kDone)
      .value("REBUILD", Plan::kRebuild)
      .value("STATE_MISSING", Plan::kStateMissing)
      .value("DONE_WITH_EDITS", Plan::kDoneWithEdits);
  plan.def(py::init<bool, py::list, py::dict, at::Tensor>(), py::arg("adam"), py::arg("param_groups"),
           py::arg("state"), py::arg("clocks"))
      .def("check", [](Plan& p, const py::list& g, const py::dict& s) { return int(p.check(g, s)); })
      .def("apply", [](Plan& p, double gain, bool counts) { return int(p.apply(gain, counts)); })
      .def("step", [](Plan& p, const py::list& g, const py::dict& s, double gain) { return int(p.step(g, s, gain)); })
      .def("zero_grad", &Plan::zero_grad)
      .def("scale_gradients", &Plan::scale_gradients)
      .def("missing", &Plan::missing)
      .def("foreign", &Plan::foreign)
      .def("adopt", &Plan::adopt)
      .def("large_counts", &Plan::large_counts)
      .def("adopt_counts", &Plan::adopt_counts)
      .def("set_program", &Plan::set_program)
      .def("advance", &Plan::advance);

  m.def("evaluate", &evaluate_many, py::arg("program"), py::arg("clocks"));
  m.def("isa", [] { return std::string(fs_cpu::kernels().isa); });
  m.def("threads_used", &fs::threads_used);
  m.def("trust_dict_tags", [](bool trust) { fs::WatchedDict::trust_tags = trust; });
  m.attr("n_shapes") = fs::kShapes;
  m.attr("row_width") = fs::kRowWidth;
  bind_track(m);
}
