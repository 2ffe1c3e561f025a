"""AdamW (Loshchilov and Hutter 2019, 1711.05101), as torch computes it."""

from sisa_scale.config.optimizers.spec import OptimizerSpec, State, standard_groups

ADAMW = OptimizerSpec(
    kind="adamw",
    torch_class="torch.optim:AdamW",
    hyperparameters=lambda config: {"betas": (config.beta1, config.beta2), "eps": config.epsilon},
    groups=standard_groups(State("exp_avg"), State("exp_avg_sq"), State("step", "update_count")),
    is_fused=True,
)
