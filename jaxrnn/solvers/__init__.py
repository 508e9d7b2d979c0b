"""How the steps of a cell become a sequence, one algorithm per file."""

from jaxrnn.solvers.base import Solver as Solver
from jaxrnn.solvers.base import Steps as Steps
from jaxrnn.solvers.checkpointed import Checkpointed as Checkpointed
from jaxrnn.solvers.deer import Deer as Deer
from jaxrnn.solvers.default import default_solver as default_solver
from jaxrnn.solvers.fused import Fused as Fused
from jaxrnn.solvers.hoisted import HoistedScan as HoistedScan
from jaxrnn.solvers.native import Native as Native
from jaxrnn.solvers.parallel_scan import ParallelScan as ParallelScan
from jaxrnn.solvers.scan import Scan as Scan
