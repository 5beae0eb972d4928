"""Options of sampling posteriors."""

from __future__ import annotations

from dataclasses import dataclass

from hybridfit.deprecations import renamed_fields
from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option


@renamed_fields("sampling")
@dataclass(frozen=True)
class SamplingOptions:
    """How posteriors are sampled; ordinary galaxies need 190 to 380 draws."""

    fit_draws: int = option(96, help="draws from the first proposal, about the fit", low=16)
    network_draws: int = option(24, help="draws of the network that are weighted too", low=0)
    prior_draws: int = option(8, help="draws of the prior that are weighted too", low=1)
    round_draws: int = option(64, help="draws of each later round", low=16)
    target_ess: float = option(
        120.0,
        help="effective sample size at which sampling stops; 100 know p16 and p84 to .15 sigma",
        above=0,
    )
    max_draws: int = option(
        512,
        help=(
            "maximum number of draws for each component; a galaxy that needs more is flagged "
            "UNSAMPLED"
        ),
        low=1,
    )
    no_signal_draws: int = option(
        192,
        help=(
            "maximum number of draws of a galaxy flagged NO_SIGNAL, whose posterior is nearly "
            "the prior"
        ),
        low=1,
    )
    mcmc: bool = option(
        False,
        help=(
            "run a Markov chain where max_draws do not suffice and there is signal, at 30 times "
            "the cost"
        ),
    )
    approximate_likelihood: bool = option(
        True, help="render cutouts much larger than the galaxy in a window around it"
    )
    seed: int = option(0, help="seed of the random numbers")

    def __post_init__(self) -> None:
        check_fields(self, "sampling")
        if self.target_ess > self.max_draws:
            raise ValueError(
                f"sampling.target_ess is {self.target_ess:g}, expected at most max_draws, "
                f"{self.max_draws}"
            )

    def most_draws(self, n_components: int) -> int:
        """Return how many draws a galaxy may have, the first round's at least."""
        first = self.fit_draws + self.network_draws + self.prior_draws
        return max(self.max_draws * n_components, first)
