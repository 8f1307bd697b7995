"""Steps and epochs in the names of files, as people and libraries write them."""

from __future__ import annotations

import pytest

from seigh.core.problems.checkpoints.names import NameFacts, pattern, read_name

# Name, step, epoch, guess.
NAMES = [
    # PyTorch Lightning
    ("epoch=3-step=300.ckpt", 300, 3, None),
    ("epoch=0-step=0.ckpt", 0, 0, None),
    ("epoch=1-val_loss=0.71.ckpt", None, 1, None),
    ("epoch=12-val_loss=0.71-v1.ckpt", None, 12, None),
    ("epoch=03-val_acc=0.91-step=1200.ckpt", 1200, 3, None),
    ("sample-mnist-epoch=02-val_loss=0.32.ckpt", None, 2, None),
    ("epoch=9-step=999-v2.ckpt", 999, 9, None),
    ("last-v3.ckpt", None, None, None),
    ("step=5000.ckpt", 5000, None, None),
    # Hugging Face
    ("checkpoint-500", 500, None, None),
    ("checkpoint-1000.safetensors", 1000, None, None),
    ("model-00001-of-00003.safetensors", None, None, None),
    ("pytorch_model-00002-of-00003.bin", None, None, None),
    ("pytorch_model.bin", None, None, None),
    ("step1000-unsharded.pt", 1000, None, None),
    ("step143000", 143000, None, None),
    ("unet_step_4000.safetensors", 4000, None, None),
    # timm
    ("checkpoint-12.pth.tar", 12, None, None),  # the file itself says that it is an epoch
    ("model_best.pth.tar", None, None, None),
    ("vit_base_patch16_224.safetensors", None, None, None),
    ("swin_tiny_patch4_window7_224.pth", None, None, None),
    ("resnet50_a1_0-14fe96d1.pth", None, None, None),
    ("efficientnet-lite0-57934424.pth", None, None, None),
    ("tf_efficientnet_b0_ns-c0e6a31c.pth", None, None, None),
    # torchvision and PyTorch's examples
    ("resnet18-f37072fd.pth", None, None, None),
    ("resnet18-5c106cde.pth", None, None, None),
    ("vgg16-397923af.pth", None, None, None),
    ("alexnet-owt-7be5be79.pth", None, None, None),
    ("checkpoint.pth.tar", None, None, None),
    ("model_9.pth", None, None, 9),
    ("resnet_18.pth", None, None, None),
    ("resnet18.pth", None, None, None),
    ("vit_b_16.pth", None, None, None),
    ("vit_l_32.pth", None, None, None),
    ("wide_resnet50_2.pth", None, None, None),
    ("wide_resnet50_2_40.pth", None, None, 40),
    ("vgg_16.pth", None, None, None),
    ("vgg_16_300.pth", None, None, 300),
    ("densenet_121.pth", None, None, None),
    ("resnet18_40.pth", None, None, 40),
    ("resnet18_224.pth", None, None, None),
    ("wrn_28_10.pt", None, None, None),
    ("wrn_28_10_40.pt", None, None, 40),
    ("lenet_5.pt", None, None, None),
    ("mlp_256_20.pt", None, None, None),
    ("mobilenet_v3_small-047dcff4.pth", None, None, None),
    ("convnext_tiny_12_ema.safetensors", None, None, None),
    # mmcv
    ("epoch_12.pth", None, 12, None),
    ("iter_5000.pth", 5000, None, None),
    ("best_bbox_mAP_epoch_12.pth", None, 12, None),
    ("best_mIoU_iter_16000.pth", 16000, None, None),
    ("faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth", None, None, None),
    # DeepSpeed, Megatron, Composer
    ("global_step300", 300, None, None),
    ("global_step12.pt", 12, None, None),
    ("mp_rank_00_model_states.pt", None, None, None),
    ("iter_0005000", 5000, None, None),
    ("ep1-ba100-rank0.pt", 100, 1, None),
    ("zero_pp_rank_0_mp_rank_00.pt", None, None, None),
    # fairseq
    ("checkpoint_3_1200.pt", 1200, 3, None),
    ("checkpoint3.pt", None, None, 3),
    ("checkpoint_best.pt", None, None, None),
    ("checkpoint_last.pt", None, None, None),
    ("checkpoint.best_bleu_27.31.pt", None, None, None),
    # Ignite
    ("best_checkpoint_7_acc=0.91.pt", 7, None, None),
    ("checkpoint_1200.pt", 1200, None, None),
    ("best_model_5_val_accuracy=0.9134.pt", None, None, None),
    # detectron2, nanoGPT, fastai, basicsr, OpenAI, StyleGAN
    ("model_0004999.pth", None, None, 4999),
    ("model_final.pth", None, None, None),
    ("ckpt.pt", None, None, None),
    ("ckpt_20000.pt", 20000, None, None),
    ("stage-1.pth", None, None, None),
    ("bestmodel_5.pth", None, None, 5),
    ("net_g_5000.pth", None, None, 5000),
    ("model010000.pt", None, None, 10000),
    ("ema_0.9999_010000.pt", None, None, 10000),
    ("network-snapshot-010000.pkl", None, None, 10000),
    ("rl_model_100000_steps.zip", 100000, None, None),
    ("gpt2_124M.pt", None, None, None),
    ("gpt_2.pt", None, None, None),
    ("phi-1_5.safetensors", None, None, None),
    ("gemma-2-2b-it-300.safetensors", None, None, 300),
    # Keras and TensorFlow
    ("weights.05-0.31.hdf5", None, None, None),
    ("cp-0010.ckpt", None, None, 10),
    ("model.ckpt-300", 300, None, None),
    ("checkpoint-12-0.83.pth", None, None, 12),
    ("model.05.h5", None, None, 5),
    # Steps in other words
    ("step_000300.pt", 300, None, None),
    ("step_000300 (1).pt", 300, None, None),
    ("steps_400.pt", 400, None, None),
    ("net_iteration-5.pt", 5, None, None),
    ("net-it300.pt", 300, None, None),
    ("it=300.pt", 300, None, None),
    ("globalStep300.pt", 300, None, None),
    ("modelStep40Epoch2.pt", 40, 2, None),
    ("num_updates_80.pt", 80, None, None),
    ("step_20240513.pt", 20240513, None, None),
    ("step_300_acc_91.5.pt", 300, None, None),
    ("lr0.1_step300.pt", 300, None, None),
    ("seed_3_step_300.pt", 300, None, None),
    ("step-10k.pt", None, None, None),
    ("footstep3.pt", None, None, None),
    ("max_steps_1000.pt", None, None, None),
    ("ddpm_diffusion_steps_1000.pt", None, None, None),
    ("warmup_steps_500-step_40.pt", 40, None, None),
    ("step_99999999999.pt", None, None, None),
    # Epochs in other words
    ("epoch_10_acc_93.pth", None, 10, None),
    ("epoch_003.pt", None, 3, None),
    ("model-ep12.pth", None, 12, None),
    ("epoch-7_fold2.pt", None, 7, None),
    ("resnet18_epoch_5.pth", None, 5, None),
    ("net_100epochs.pt", None, 100, None),
    ("model_10_epoch.pth", None, 10, None),
    ("epoch_10_step_500.pt", 500, 10, None),
    ("checkpoint_10_epoch.pt", None, 10, None),
    ("checkpoint_epoch_10.pt", None, 10, None),
    ("rep3.pt", None, None, None),
    ("e10.pt", None, None, None),
    ("e1e.pt", None, None, None),
    ("warmup_epochs_5.pt", None, None, None),
    ("epoch_3_400.pt", None, 3, None),
    # Guesses
    ("model_40.pth", None, None, 40),
    ("run-a_500.pt", None, None, 500),
    ("70.pt", None, None, 70),
    ("000300.pt", None, None, 300),
    ("model_40_best.pth", None, None, 40),
    ("net_2024-05-13_300.pt", None, None, 300),
    ("seed3_300.pt", None, None, 300),
    ("checkpoint10.pt", None, None, 10),
    # Neither
    ("best_acc_91.5.pt", None, None, None),
    ("best_acc_91.pt", None, None, None),
    ("model_best_0.71.pt", None, None, None),
    ("acc93.pt", None, None, None),
    ("top1_76.pt", None, None, None),
    ("acc_93%.pt", None, None, None),
    ("val_loss_2.pt", None, None, None),
    ("run_2024-05-13.pt", None, None, None),
    ("run_20240513.pt", None, None, None),
    ("run_20240513_1530.pt", None, None, None),
    ("13-05-2024.pt", None, None, None),
    ("2024-05-13T15-30-00.pt", None, None, None),
    ("May13_12-30-45.pt", None, None, None),
    ("net-20240131235959.pt", None, None, None),
    ("checkpoint-2024-05-13.pt", None, None, None),
    ("checkpoint_20240513.pt", None, None, None),
    ("paper_2024.pt", None, None, None),
    ("lr0.1_wd5e-4.pt", None, None, None),
    ("lr1e-4.pt", None, None, None),
    ("lr_1e-3.pt", None, None, None),
    ("bs_128.pt", None, None, None),
    ("dropout_0.5.pt", None, None, None),
    ("seed3.pt", None, None, None),
    ("seed-1.pt", None, None, None),
    ("fold2.pt", None, None, None),
    ("fold_2.pt", None, None, None),
    ("rank0.pt", None, None, None),
    ("v2.pt", None, None, None),
    ("v1.0.3.pt", None, None, None),
    ("version_2.pt", None, None, None),
    ("exp12.pt", None, None, None),
    ("exp_12.pt", None, None, None),
    ("cifar_10.pt", None, None, None),
    ("cifar-100.pt", None, None, None),
    ("model_224.pt", None, None, None),
    ("net_32x32.pt", None, None, None),
    ("width_20.pt", None, None, None),
    ("net.pt", None, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "step", "epoch", "guess"), NAMES, ids=[name for name, *_ in NAMES])
def test_numbers_count_only_where_the_name_says_so(
    name: str, step: int | None, epoch: int | None, guess: int | None
) -> None:
    facts = read_name(name)
    assert (facts.step, facts.epoch, facts.guess) == (step, epoch, guess)


def test_the_table_is_long_and_names_each_file_once() -> None:
    assert len({name for name, *_ in NAMES}) == len(NAMES) >= 100


@pytest.mark.parametrize(
    "before", ["", "resnet18_", "vit_b_16-", "cifar10_", "seed3_", "2024-05-13_", "lr0.1_"]
)
@pytest.mark.parametrize(
    "after", ["", "_acc_93", "-val_loss=0.71", "_best", "_seed3", "-f37072fd", "_top1_76.1"]
)
@pytest.mark.parametrize(
    ("words", "step", "epoch"),
    [
        ("step_300", 300, None),
        ("iter300", 300, None),
        ("epoch=3", None, 3),
        ("ep3", None, 3),
        ("epoch=3-step=300", 300, 3),
    ],
)
def test_what_stands_around_a_count_does_not_change_it(
    before: str, words: str, after: str, step: int | None, epoch: int | None
) -> None:
    assert read_name(f"{before}{words}{after}.pt") == NameFacts(step, epoch)


def test_the_word_checkpoint_alone_is_told_from_others() -> None:
    assert read_name("checkpoint-12.pth.tar").step_of_checkpoint
    assert not read_name("step-12.pt").step_of_checkpoint
    assert not read_name("checkpoint_3_1200.pt").step_of_checkpoint


@pytest.mark.parametrize(
    ("name", "number", "found"),
    [
        ("model_0040.pth", 40, "model_*.pth"),
        ("resnet18_18.pth", 18, "resnet18_*.pth"),
        ("a.pth", 3, "a.pth"),
    ],
)
def test_patterns_of_names(name: str, number: int, found: str) -> None:
    assert pattern(name, number) == found
