// SPDX-License-Identifier: Apache-2.0
#include "bindings/host_driver.h"

#include <array>
#include <cmath>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/casters.h"
#include "bindings/watched_value.h"
#include "core/edit.h"
#include "plan/program.h"

namespace {

namespace py = pybind11;
using fs::cells::Cell;
using fs::cells::Container;
using fs::cells::get;
using fs::cells::has_count;
using fs::cells::interned;
using fs::cells::set;

// What is written to a group.
struct Group {
  Cell lr;
  std::vector<Cell> keys;
  int32_t rate;      // index of a program
  int32_t momentum;  // the same; -1 for none
  std::vector<fs::EditRule> rules;
  fs::Edit edit;
};

// An attribute of a scheduler, and the object that it was.
struct Watched {
  py::object attributes, name, object;
};

using Names = std::vector<std::pair<py::object, std::string>>;
using Rule = std::array<double, 6>;
using Edits = std::vector<std::tuple<double, double, double>>;

class HostDriver {
 public:
  HostDriver(const py::dict& state, int64_t clock, int64_t count, int64_t horizon, const py::list& programs,
             const std::vector<int32_t>& rates, const std::vector<int32_t>& momenta, const std::string& momentum_key,
             const std::vector<std::vector<Rule>>& rules, const Edits& edits, const Names& watched, const Names& lists,
             const std::vector<std::string>& keys, py::object launch)
      : clock(clock), count_(count), horizon_(horizon), launch_(std::move(launch)),
        momentum_key_(interned(momentum_key)), betas_(momentum_key == "betas"), values_(programs.size()) {
    for (py::handle program : programs) {
      const py::buffer_info info = program.cast<py::buffer>().request();
      const auto* data = static_cast<const double*>(info.ptr);
      fs::check_program(data, static_cast<size_t>(info.size));
      programs_.emplace_back(data, data + info.size);
    }
    for (const auto& [attributes, name] : watched) {
      const py::object key = interned(name);
      watched_.push_back({attributes, key, py::reinterpret_borrow<py::object>(get(attributes.ptr(), key))});
    }
    for (const auto& [attributes, name] : lists) lists_.emplace_back(attributes, Container(name, attributes.ptr()));
    for (const std::string& name : keys) keys_.push_back(interned(name));
    const py::object groups = groups_of(state.ptr());
    for (size_t i = 0; i < rates.size(); ++i) {
      PyObject* group = PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(i));
      PyObject* lr = get(group, lr_);
      if (launched()) targets_.push_back(py::reinterpret_borrow<py::object>(lr));
      const auto [gain, shift, until] = edits.at(i);
      Group seen{Cell(launched() ? Py_None : lr), {}, rates[i], momenta[i], {}, {gain, shift, until}};
      for (const Rule& r : rules.at(i)) seen.rules.push_back({r[2], r[0], r[1], r[3], r[4], r[5]});
      if (launched() && momenta[i] >= 0 && fs::cells::is_tensor(momentum_of(group))) {
        targets_.push_back(py::reinterpret_borrow<py::object>(momentum_of(group)));
        seen.momentum = kLaunched;
      }
      for (const py::object& key : keys_) seen.keys.emplace_back(get(group, key));
      groups_.push_back(std::move(seen));
    }
  }

  // Whether everything but the rates is as this driver left it.
  bool is_unmodified(const py::dict& state) {
    PyObject* dict = state.ptr();
    if (!has_count(dict, last_epoch_, clock, true)) return false;
    if (count_ >= 0 && !has_count(dict, step_count_, count_, false)) return false;
    for (const Watched& w : watched_) {
      if (get(w.attributes.ptr(), w.name) != w.object.ptr()) return false;
    }
    for (auto& [attributes, container] : lists_) {
      if (!container.matches(attributes.ptr())) return false;
    }
    const py::object groups = groups_of(dict);
    if (PyList_GET_SIZE(groups.ptr()) != static_cast<Py_ssize_t>(groups_.size())) return false;
    size_t target = 0;
    for (size_t i = 0; i < groups_.size(); ++i) {
      PyObject* group = PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(i));
      if (!PyDict_Check(group)) return false;
      if (launched() && get(group, lr_) != targets_[target++].ptr()) return false;
      if (groups_[i].momentum == kLaunched && momentum_of(group) != targets_[target++].ptr()) return false;
      for (size_t k = 0; k < keys_.size(); ++k) {
        if (!groups_[i].keys[k].matches(get(group, keys_[k]))) return false;
      }
      if (groups_[i].momentum >= 0) {
        PyObject* momentum = get(group, momentum_key_);
        if (momentum == nullptr || (betas_ && !PyTuple_CheckExact(momentum))) return false;
      }
    }
    return true;
  }

  bool advance(const py::dict& state) {
    if (!is_unmodified(state) || (horizon_ >= 0 && clock >= horizon_)) return false;
    if (!launched() && !update_edits(state)) return false;
    seek(clock + 1);
    write(state);
    return true;
  }

  // Notes the rates that are not what was written last. False, and nothing is changed, for one that is no number, and
  // where the schedule has nothing to scale.
  bool update_edits(const py::dict& state) {
    const py::object groups = groups_of(state.ptr());
    edits_.resize(groups_.size());
    for (size_t i = 0; i < groups_.size(); ++i) {
      PyObject* lr = get(PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(i)), lr_);
      Group& group = groups_[i];
      edits_[i] = group.edit;
      if (group.lr.matches(lr)) continue;
      const std::optional<double> found = lr == nullptr ? std::nullopt : fs::cells::number(lr);
      if (!found) return false;
      const double value = fs::evaluate(programs_[group.rate].data(), static_cast<double>(clock));
      const fs::EditRule& rule = rule_of(group);
      if (rule.kind == fs::kScaleOrKeep && std::abs(value - rule.pivot) < kUnderflow) return false;
      edits_[i] = fs::edited(group.edit, rule, static_cast<double>(clock), value, *found);
    }
    for (size_t i = 0; i < groups_.size(); ++i) {
      groups_[i].edit = edits_[i];
      PyObject* lr = get(PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(i)), lr_);
      if (lr != groups_[i].lr.object()) groups_[i].lr.look(lr);
    }
    return true;
  }

  // To another clock, without writing what belongs to it.
  void seek(int64_t to) {
    if (count_ >= 0) count_ += to - clock;
    clock = to;
  }

  // Writes what belongs to the present clock, counters included.
  void write(const py::dict& state) {
    if (launched()) launch();
    for (size_t p = 0; p < programs_.size(); ++p) {
      values_[p] = fs::evaluate(programs_[p].data(), static_cast<double>(clock));
    }
    const py::object groups = groups_of(state.ptr());
    py::list last(launched() ? 0 : groups_.size());
    for (size_t i = 0; i < groups_.size(); ++i) {
      PyObject* group = PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(i));
      if (!launched()) {
        PyList_SET_ITEM(last.ptr(), static_cast<Py_ssize_t>(i), write_rate(group, groups_[i]).release().ptr());
      }
      if (groups_[i].momentum >= 0) write_momentum(group, values_[groups_[i].momentum]);
    }
    if (get(state.ptr(), last_epoch_) != nullptr) set(state.ptr(), last_epoch_, py::int_(clock).ptr());
    if (count_ >= 0) set(state.ptr(), step_count_, py::int_(count_).ptr());
    if (!launched()) set(state.ptr(), last_lr_, last.ptr());  // else it is derived when it is read
  }

  bool launched() const { return !launch_.is_none(); }

  // Lets the device write; whatever keeps saved values of these tensors has to know.
  void launch() {
    launch_();
    for (const py::object& target : targets_) {
      const at::Tensor& t = fs::tensor_of(target.ptr());
      if (!t.is_inference()) t.unsafeGetTensorImpl()->bump_version();
    }
  }

  Edits edits() const {
    Edits found;
    for (const Group& group : groups_) found.emplace_back(group.edit.gain, group.edit.shift, group.edit.until);
    return found;
  }

  // For Python's garbage collector: a scheduler may hold its optimizer, which may hold the scheduler.
  int visit(visitproc visit, void* arg) const {
    for (const Watched& w : watched_) {
      Py_VISIT(w.attributes.ptr());
      Py_VISIT(w.object.ptr());
    }
    for (const auto& [attributes, container] : lists_) {
      Py_VISIT(attributes.ptr());
      for (const Cell& cell : container.cells) Py_VISIT(cell.object());
    }
    Py_VISIT(launch_.ptr());
    return 0;
  }

  int64_t clock;

 private:
  static constexpr int32_t kLaunched = -2;  // for Group::momentum: it is a tensor that the kernel writes
  static constexpr double kUnderflow = 1e-280;  // as in fusedsched/lr_scheduler/driver.py

  PyObject* momentum_of(PyObject* group) const {
    PyObject* momentum = get(group, momentum_key_);
    const bool first = betas_ && momentum != nullptr && PyTuple_CheckExact(momentum) && PyTuple_GET_SIZE(momentum) > 0;
    return first ? PyTuple_GET_ITEM(momentum, 0) : momentum;
  }

  // What belongs into _last_lr: the float itself, or a copy of the tensor.
  py::object write_rate(PyObject* group, Group& seen) {
    const double value = fs::apply(seen.edit, rule_of(seen), static_cast<double>(clock), values_[seen.rate]);
    if (seen.lr.tensor()) {
      const at::Tensor& t = fs::tensor_of(seen.lr.object());
      fs::cells::write(t, value);
      seen.lr.wrote(value);
      return py::reinterpret_steal<py::object>(fs::wrap(t.clone()));
    }
    py::object rate = py::float_(value);
    set(group, lr_, rate.ptr());
    seen.lr.wrote(rate, value);
    return rate;
  }

  void write_momentum(PyObject* group, double value) {
    py::object momentum = py::float_(value);
    if (betas_) {
      PyObject* old = get(group, momentum_key_);
      const Py_ssize_t n = PyTuple_GET_SIZE(old) > 0 ? PyTuple_GET_SIZE(old) : 1;
      py::tuple betas(n);
      PyTuple_SET_ITEM(betas.ptr(), 0, momentum.release().ptr());
      for (Py_ssize_t k = 1; k < n; ++k) {
        PyTuple_SET_ITEM(betas.ptr(), k, Py_NewRef(PyTuple_GET_ITEM(old, k)));
      }
      momentum = std::move(betas);
    }
    set(group, momentum_key_, momentum.ptr());
  }

  const fs::EditRule& rule_of(const Group& group) const {
    return fs::rule_at(group.rules.data(), static_cast<double>(clock));
  }

  py::object groups_of(PyObject* state) const {
    PyObject* optimizer = get(state, optimizer_);
    PyObject* groups = optimizer == nullptr ? nullptr : PyObject_GetAttr(optimizer, param_groups_.ptr());
    if (groups == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (groups == nullptr || !PyList_Check(groups)) throw py::type_error("optimizer.param_groups is not a list");
    return py::reinterpret_steal<py::object>(groups);
  }

  int64_t count_, horizon_;
  py::object launch_;  // writes all targets; None: they are written here
  std::vector<py::object> targets_;  // tensors that it writes
  py::object momentum_key_;
  bool betas_;
  std::vector<double> values_;
  std::vector<std::vector<double>> programs_;
  std::vector<Watched> watched_;
  std::vector<std::pair<py::object, Container>> lists_;
  std::vector<py::object> keys_;
  std::vector<Group> groups_;
  std::vector<fs::Edit> edits_;  // while they are looked for
  py::object lr_ = interned("lr"), optimizer_ = interned("optimizer"), param_groups_ = interned("param_groups"),
             last_epoch_ = interned("last_epoch"), step_count_ = interned("_step_count"),
             last_lr_ = interned("_last_lr");
};

}  // namespace

void bind_host_driver(py::module_& m) {
  const auto collected = [](PyHeapTypeObject* heap_type) {
    heap_type->ht_type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    heap_type->ht_type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
      Py_VISIT(Py_TYPE(self));
      const auto held = reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder();
      return held.holder_constructed() ? static_cast<const HostDriver*>(held.value_ptr())->visit(visit, arg) : 0;
    };
  };
  py::class_<HostDriver>(m, "HostDriver", py::custom_type_setup(collected),
                         "The compiled PythonHostDriver of fusedsched/lr_scheduler/driver.py.")
      .def(py::init<const py::dict&, int64_t, int64_t, int64_t, const py::list&, const std::vector<int32_t>&,
                    const std::vector<int32_t>&, const std::string&, const std::vector<std::vector<Rule>>&,
                    const Edits&, const Names&, const Names&, const std::vector<std::string>&, py::object>(),
           py::arg("state"), py::arg("clock"), py::arg("count"), py::arg("horizon"), py::arg("programs"),
           py::arg("rates"), py::arg("momenta"), py::arg("momentum_key"), py::arg("rules"), py::arg("edits"),
           py::arg("watched"), py::arg("lists"), py::arg("keys"), py::arg("launch") = py::none())
      .def_readonly("clock", &HostDriver::clock)
      .def_property_readonly_static("on_device", [](const py::object&) { return false; })
      .def("launch", &HostDriver::launch)
      .def("is_unmodified", &HostDriver::is_unmodified)
      .def("advance", &HostDriver::advance)
      .def("seek", &HostDriver::seek)
      .def("edits", &HostDriver::edits)
      .def("write", &HostDriver::write);
}
