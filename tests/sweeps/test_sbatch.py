"""Which config field a refusal of sbatch names. The texts are SLURM's own (src/common/slurm_errno.c)."""

import pytest

from cft_lab.config.running import ClusterConfig, ResourcesConfig
from cft_lab.sweeps.sbatch import refused_field

CLUSTER = ClusterConfig(
    kind="slurm",
    partition="gpu",
    account="mine",
    qos="long",
    constraint="a100",
    options={"exclude": "n7"},
    train=ResourcesConfig(cpus=64, memory_gb=512, gpus=8, minutes=480),
)
FULL = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.mark.parametrize(
    "said",
    [
        f"sbatch: error: Batch job submission failed: {FULL}",
        f"sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: {FULL}",
        f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: {FULL}",
        f"sbatch: error: MaxSubmitJobsPerAccount\nsbatch: error: Batch job submission failed: {FULL}",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
        "sbatch: error: Batch job submission failed: Invalid authentication credential",
        "sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)",
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    ],
)
def test_what_passes_by_itself_is_about_no_field(said: str) -> None:
    assert refused_field(said, "train", CLUSTER) is None


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("User's group not permitted to use this partition", "cluster.partition=gpu"),
        ("Job's QOS not permitted to use this partition (gpu allows short not long)", "cluster.qos=long or cluster.partition=gpu"),
        (
            "Job's account not permitted to use this partition (gpu allows a not mine)",
            "cluster.account=mine or cluster.partition=gpu",
        ),
        ("No partition specified or system default partition", "cluster.partition=gpu"),
        ("Invalid partition name specified", "cluster.partition=gpu"),
        ("Invalid account or account/partition combination specified", "cluster.account=mine"),
        ("Invalid qos specification", "cluster.qos=long"),
        ("Invalid feature specification", "cluster.constraint=a100"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "cluster.train.minutes=480"),
        ("Memory required by task is not available", "cluster.train.memory_gb=512"),
        ("Invalid generic resource (gres) specification", "cluster.train.gpus=8"),
        ("CPU count specification invalid", "cluster.train.cpus=64"),
        ("More processors requested than permitted", "cluster.train.cpus=64"),
        ("Node count specification invalid", "train.nodes"),
        ("Requested node configuration is not available", "cluster.train (cpus=64, gpus=8"),
        (f"QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: {FULL}", "cluster.train.minutes=480"),
        (f"AssocMaxNodePerJobLimit\nsbatch: error: Batch job submission failed: {FULL}", "cluster.train (cpus=64"),
        ("unrecognized option '--no-such-option=1'", "cluster.options={'exclude': 'n7'}"),
    ],
)
def test_a_refusal_that_stays_names_its_field(said: str, named: str) -> None:
    assert (refused_field(f"sbatch: error: {said}", "train", CLUSTER) or "").startswith(named)
