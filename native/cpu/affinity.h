// CPUs that threads run on: the system's affinity masks.
#pragma once

#include <string>
#include <vector>

namespace plait {

// Where a team's threads may run: anywhere where there are no CPUs; each on any of them; or, `strict`, each on its own,
// thread i on cpus[i].
struct Binding {
    std::vector<int> cpus;
    bool strict = false;
};

// Throws std::invalid_argument for a CPU that the calling thread may not use, and for more threads than CPUs where each
// is to have its own.
void check_binding(const Binding& binding, int threads);

// Binds the calling thread while it lives, then gives it back its own CPUs. A refusal of the system costs speed only.
class BoundHere {
  public:
    BoundHere(const Binding& binding, int thread);
    ~BoundHere();
    BoundHere(const BoundHere&) = delete;
    BoundHere& operator=(const BoundHere&) = delete;

  private:
    std::vector<unsigned long> before_;  // the mask; empty where nothing was changed
};

}  // namespace plait
