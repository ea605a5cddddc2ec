// SPDX-License-Identifier: Apache-2.0
#include "bindings/host_driver.h"

#include <string>
#include <utility>
#include <vector>

#include "bindings/casters.h"
#include "bindings/watched_value.h"
#include "core/schedule.h"

namespace {

namespace py = pybind11;
using fs::cells::Cell;
using fs::cells::Container;
using fs::cells::get;
using fs::cells::interned;
using fs::cells::set;

struct Group {
  Cell lr;
  std::vector<Cell> keys;
  int32_t rate;      // index of a program
  int32_t momentum;  // the same; -1 for none
};

// A tensor that a kernel writes. Where its number cannot be looked at, a new version means that somebody wrote to it.
struct Target {
  py::object object;
  int64_t version;

  const at::Tensor& tensor() const { return fs::tensor_of(object.ptr()); }
  int64_t present() const { return tensor().is_inference() ? 0 : tensor()._version(); }
};

class Track {
 public:
  Track(const py::dict& state, int64_t count, int64_t horizon, const py::list& programs,
        const std::vector<int32_t>& rates, const std::vector<int32_t>& momenta, const std::string& momentum_key,
        const std::vector<std::string>& attributes, const std::vector<std::string>& lists,
        const std::vector<std::string>& keys, py::object launch)
      : clock(state["last_epoch"].cast<int64_t>()), count_(count), horizon_(horizon), launch_(std::move(launch)),
        momentum_key_(interned(momentum_key)), betas_(momentum_key == "betas"), values_(programs.size()) {
    for (py::handle program : programs) {
      const py::buffer_info info = program.cast<py::buffer>().request();
      const auto* data = static_cast<const double*>(info.ptr);
      programs_.emplace_back(data, data + info.size);
    }
    for (const std::string& name : attributes) {
      attributes_.emplace_back(interned(name), py::object());
      attributes_.back().second = py::reinterpret_borrow<py::object>(get(state.ptr(), attributes_.back().first));
    }
    for (const std::string& name : lists) lists_.emplace_back(name, state.ptr());
    for (const std::string& name : keys) keys_.push_back(interned(name));
    const py::object groups = groups_of(state.ptr());
    for (size_t i = 0; i < rates.size(); ++i) {
      PyObject* group = PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(i));
      PyObject* lr = get(group, lr_);
      if (launched()) watch(lr);
      Group seen{Cell(launched() ? Py_None : lr), {}, rates[i], momenta[i]};
      if (launched() && momenta[i] >= 0 && fs::cells::is_tensor(momentum_of(group))) {
        watch(momentum_of(group));
        seen.momentum = kLaunched;
      }
      for (const py::object& key : keys_) seen.keys.emplace_back(get(group, key));
      groups_.push_back(std::move(seen));
    }
  }

  bool untouched(const py::dict& state) {
    PyObject* dict = state.ptr();
    if (!counts(dict, last_epoch_, clock) || (count_ >= 0 && !counts(dict, step_count_, count_))) return false;
    for (const auto& [name, object] : attributes_) {
      if (get(dict, name) != object.ptr()) return false;
    }
    for (Container& container : lists_) {
      if (!container.matches(dict)) return false;
    }
    const py::object groups = groups_of(dict);
    if (PyList_GET_SIZE(groups.ptr()) != static_cast<Py_ssize_t>(groups_.size())) return false;
    size_t target = 0;
    for (size_t i = 0; i < groups_.size(); ++i) {
      PyObject* group = PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(i));
      if (!PyDict_Check(group)) return false;
      PyObject* lr = get(group, lr_);
      if (launched() ? lr != targets_[target++].object.ptr() : !groups_[i].lr.matches(lr)) return false;
      if (groups_[i].momentum == kLaunched && momentum_of(group) != targets_[target++].object.ptr()) return false;
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

  bool step(const py::dict& state) {
    if (!untouched(state) || (horizon_ >= 0 && clock >= horizon_)) return false;
    move(clock + 1);
    write_all(state);
    return true;
  }

  // To another clock, without writing what belongs to it.
  void move(int64_t to) {
    if (count_ >= 0) count_ += to - clock;
    clock = to;
  }

  void write_all(const py::dict& state) {
    if (launched()) launch_targets();
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
    set(state.ptr(), last_epoch_, py::int_(clock).ptr());
    if (count_ >= 0) set(state.ptr(), step_count_, py::int_(count_).ptr());
    if (!launched()) set(state.ptr(), last_lr_, last.ptr());  // else it is derived when somebody reads it
  }

  bool launched() const { return !launch_.is_none(); }

  // A launch of the kernel; who keeps saved values of these tensors has to know.
  void launch_targets() {
    for (const Target& target : targets_) edited |= target.present() != target.version;
    launch_();
    for (const Target& target : targets_) {
      if (!target.tensor().is_inference()) target.tensor().unsafeGetTensorImpl()->bump_version();
    }
    for (Target& target : targets_) target.version = target.present();  // last: they may share one
    steps += 1;
  }

  int64_t clock;
  int64_t steps = 0;    // launches so far
  bool edited = false;  // a tensor was written to, and the kernel carried that on

 private:
  static constexpr int32_t kLaunched = -2;  // for Group::momentum: it is a tensor that the kernel writes

  void watch(PyObject* object) {
    targets_.push_back({py::reinterpret_borrow<py::object>(object), 0});
    targets_.back().version = targets_.back().present();
  }

  PyObject* momentum_of(PyObject* group) const {
    PyObject* momentum = get(group, momentum_key_);
    const bool first = betas_ && momentum != nullptr && PyTuple_CheckExact(momentum) && PyTuple_GET_SIZE(momentum) > 0;
    return first ? PyTuple_GET_ITEM(momentum, 0) : momentum;
  }

  // What belongs into _last_lr: the float itself, or a copy of the tensor.
  py::object write_rate(PyObject* group, Group& seen) {
    const double value = values_[seen.rate];
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

  static bool counts(PyObject* dict, const py::object& key, int64_t expected) {
    PyObject* now = get(dict, key);
    if (now == nullptr || !PyLong_Check(now)) return false;
    int overflow = 0;
    return PyLong_AsLongLongAndOverflow(now, &overflow) == expected && overflow == 0;
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
  std::vector<Target> targets_;
  py::object momentum_key_;
  bool betas_;
  std::vector<double> values_;
  std::vector<std::vector<double>> programs_;
  std::vector<std::pair<py::object, py::object>> attributes_;
  std::vector<Container> lists_;
  std::vector<py::object> keys_;
  std::vector<Group> groups_;
  py::object lr_ = interned("lr"), optimizer_ = interned("optimizer"), param_groups_ = interned("param_groups"),
             last_epoch_ = interned("last_epoch"), step_count_ = interned("_step_count"),
             last_lr_ = interned("_last_lr");
};

}  // namespace

void bind_track(py::module_& m) {
  py::class_<Track>(m, "Track", "The compiled PythonTrack of fusedsched/lr_scheduler/tracks.py.")
      .def(py::init<const py::dict&, int64_t, int64_t, const py::list&, const std::vector<int32_t>&,
                    const std::vector<int32_t>&, const std::string&, const std::vector<std::string>&,
                    const std::vector<std::string>&, const std::vector<std::string>&, py::object>(),
           py::arg("state"), py::arg("count"), py::arg("horizon"), py::arg("programs"), py::arg("rates"),
           py::arg("momenta"), py::arg("momentum_key"), py::arg("attributes"), py::arg("lists"), py::arg("keys"),
           py::arg("launch") = py::none())
      .def_readonly("clock", &Track::clock)
      .def_readonly("steps", &Track::steps)
      .def_readonly("edited", &Track::edited)
      .def_property_readonly("launched", &Track::launched)
      .def("move", &Track::move)
      .def("launch_targets", &Track::launch_targets)
      .def("untouched", &Track::untouched)
      .def("step", &Track::step)
      .def("write", &Track::write_all);
}
