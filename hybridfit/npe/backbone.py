"""Options of the network's architecture, and its backbone: a Swin Transformer V2 on the views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybridfit.npe.inputs import N_VIEWS
from hybridfit.npe.views import SIDE
from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option


@dataclass(frozen=True)
class NetworkOptions:
    """Architecture of the estimator; see `hybridfit.npe.refinement` for its last option."""

    backbone: str = option(
        "small",
        help=(
            "small (a Swin V2 of the next five numbers), the name of a Swin V2 of timm, or none "
            "(the scalars alone)"
        ),
    )
    pretrained: bool = option(False, help="start a named backbone from the weights of timm's hub")
    patch: int = option(8, help="side of a patch of the small backbone", unit="pix")
    embed: int = option(64, help="channels of the first stage of the small backbone")
    depths: tuple[int, ...] = option((2, 2), help="blocks of each stage of the small backbone")
    heads: tuple[int, ...] = option(
        (4, 8), help="attention heads of each stage of the small backbone"
    )
    window: int = option(
        4, help="side of the attention window of the small backbone", unit="patches"
    )
    moments: bool = option(True, help="read the scalars (moments of the image)")
    width: int = option(256, help="width of the MLP")
    blocks: int = option(3, help="gated residual blocks of the MLP")
    corrections: int = option(
        2, help="further blocks, by which the backbone's features correct the scalars' state"
    )
    context: int = option(128, help="numbers that the flow is given")
    flow_layers: int = option(5, help="layers of the masked autoregressive flow")
    flow_hidden: int = option(128, help="hidden features of a layer of the flow")
    flow_blocks: int = option(1, help="residual blocks of a layer of the flow")
    members: int = option(
        1,
        help=(
            "heads with a flow each behind the shared blocks; of several the posterior is the "
            "mean, and their disagreement the epistemic error"
        ),
        low=1,
    )
    refinement: bool = option(
        False,
        help="refine the estimate of an initial estimator by Gauss-Newton steps on the pixels",
    )

    def __post_init__(self) -> None:
        check_fields(self, "network")
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "heads", tuple(self.heads))
        if len(self.depths) != len(self.heads):
            raise ValueError(
                f"depths {self.depths} and heads {self.heads} differ in length: expected one "
                "number of heads for each stage"
            )
        if self.backbone == "none" and not self.moments:
            raise ValueError("backbone is 'none' and moments is false: nothing is left to read")
        if self.refinement and not self.moments:
            raise ValueError(
                "refinement is true and moments is false: the initial estimator reads moments"
            )


def make_backbone(options: NetworkOptions) -> Any:
    """The Swin V2 of the options as a module (B, 5, 64, 64) -> (B, num_features), or None."""
    if options.backbone == "none":
        return None
    # timm takes seconds to import
    import timm
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    if options.backbone == "small":
        return SwinTransformerV2(
            img_size=SIDE,
            patch_size=options.patch,
            in_chans=N_VIEWS,
            num_classes=0,
            embed_dim=options.embed,
            depths=options.depths,
            num_heads=options.heads,
            window_size=options.window,
            drop_path_rate=0.0,
        )
    # of other names timm would ask a hub, or read files
    if options.backbone not in timm.list_models("swinv2*"):
        raise ValueError(
            f"backbone is '{options.backbone}', expected 'small', 'none' or one of "
            f"{', '.join(timm.list_models('swinv2_[!c]*')[:4])}..."
        )
    return timm.create_model(
        options.backbone,
        pretrained=options.pretrained,
        img_size=SIDE,
        in_chans=N_VIEWS,
        num_classes=0,
    )


def n_tokens(backbone: Any) -> int:
    """Tokens of a Swin's last stage on a view."""
    step = backbone.patch_embed.patch_size[0] * 2 ** (len(backbone.layers) - 1)
    return int((SIDE // step) ** 2)
