"""Old place of `hybridfit.data.flags`, `fit`, `samples` and `result`."""

from hybridfit.data.fit import Fit as Fit
from hybridfit.data.flags import FLAG_TEXT as FLAG_TEXT
from hybridfit.data.flags import Flag as Flag
from hybridfit.data.flags import describe_flags as describe_flags
from hybridfit.data.flags import joined as joined
from hybridfit.data.result import FLUXES as FLUXES
from hybridfit.data.result import QUALITY_COLUMNS as CERTIFICATE  # noqa: F401
from hybridfit.data.result import Quality as Quality
from hybridfit.data.result import Result as Result
from hybridfit.data.samples import Posterior as Posterior
