"""Options of the network's architecture, and its backbone: a Swin Transformer V2 on the views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybridfit.npe.inputs import N_VIEWS
from hybridfit.npe.views import SIDE
from hybridfit.options.checks import check_fields


@dataclass(frozen=True)
class NetworkOptions:
    """Architecture of the estimator.

    Args:
        backbone: "small" (a Swin V2 of the next five numbers), the name of any Swin V2 of timm,
            or "none" for the scalars alone.
        pretrained: start a named backbone from the weights that timm's hub has for it.
        patch, embed, depths, heads, window: of the small backbone.
        moments: whether the scalars are read.
        width: of the MLP.
        blocks: gated residual blocks in it.
        corrections: further ones, in which the backbone's features correct the scalars' state.
        context: numbers that the flow is given.
        flow_layers, flow_hidden, flow_blocks: of the masked autoregressive flow.
        refinement: whether Gauss-Newton steps on the pixels refine the estimate of an initial
            estimator, and the flow works about the result; see `hybridfit.npe.refinement`.
    """

    backbone: str = "small"
    pretrained: bool = False
    patch: int = 8
    embed: int = 64
    depths: tuple[int, ...] = (2, 2)
    heads: tuple[int, ...] = (4, 8)
    window: int = 4
    moments: bool = True
    width: int = 256
    blocks: int = 3
    corrections: int = 2
    context: int = 128
    flow_layers: int = 5
    flow_hidden: int = 128
    flow_blocks: int = 1
    refinement: bool = False

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
