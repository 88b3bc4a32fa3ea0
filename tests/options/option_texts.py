"""Option files without a mistake, as texts that tests break at one place."""

UNIRAIN = """\
name: rain
model_type: UniRainModel
scale: 1
num_gpu: 0
manual_seed: 0
datasets:
  train:
    name: four types
    type: DistilledMixedPairedDataset
    dataroot: DATA
    rain_types: [drs, drd, nrs, nrd]
    gt_size: 32
    use_hflip: true
    use_rot: true
    num_worker_per_gpu: 0
    batch_size_per_gpu: 2
  val:
    name: held out
    type: DistilledMixedPairedDataset
    dataroot: DATA
network_g:
  type: UniRain
  dim: 8
  num_blocks: [1, 1]
  decoder_blocks: [1]
  refinement_blocks: 0
  heads: [1, 2]
path:
  pretrain_network_g: ~
  strict_load_g: true
  resume_state: ~
train:
  ema_decay: 0.9
  optim_g:
    type: AdamW
    lr: !!float 2e-4
    betas: [0.9, 0.99]
  scheduler:
    type: CosineAnnealingRestartLR
    periods: [100]
    restart_weights: [1]
    eta_min: 1.0e-6
  total_iter: 100
  warmup_iter: -1
  grad_clip: 1.0
  pixel_opt:
    type: MultiObjectiveReweightedLoss
    rain_types: [drs, drd, nrs, nrd]
    mode: paper
    base:
      type: L1Loss
val:
  val_freq: !!float 5e1
  save_img: false
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 0
logger:
  print_freq: 10
  save_checkpoint_freq: 50
  use_tb_logger: false
"""
"""A training of UniRain; DATA stands for the folder."""

STOCK = """\
name: edsr
model_type: SRModel
scale: 2
num_gpu: auto
manual_seed: 10
datasets:
  train:
    name: DIV2K
    type: PairedImageDataset
    dataroot_gt: datasets/gt
    dataroot_lq: datasets/lq
    filename_tmpl: '{}'
    io_backend: {type: disk}
    gt_size: 192
    use_hflip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 16
    dataset_enlarge_ratio: 1000
    prefetch_mode: ~
  val_1:
    name: Set5
    type: PairedImageDataset
    dataroot_gt: datasets/gt
    dataroot_lq: datasets/lq
    io_backend: {type: disk}
network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 64, res_scale: 0.1, upscale: 2, img_range: 255.,
            rgb_mean: [0.4488, 0.4371, 0.4040]}
path: {pretrain_network_g: ~, strict_load_g: false, resume_state: ~}
train:
  optim_g:
    type: Adam
    lr: !!float 1e-4
    weight_decay: 0
    betas: [0.9, 0.99]
  scheduler:
    type: MultiStepLR
    milestones: [200000]
    gamma: 0.5
  total_iter: 300000
  warmup_iter: -1
  pixel_opt:
    type: L1Loss
    loss_weight: 1.0
    reduction: mean
val:
  val_freq: !!float 5e3
  save_img: false
  metrics:
    psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: false}
logger:
  print_freq: 100
  save_checkpoint_freq: !!float 5e3
  use_tb_logger: true
  wandb: {project: ~, resume_id: ~}
dist_params: {backend: nccl, port: 29500}
"""
"""A training in the style of the toolbox's own option files."""

TEST = """\
name: tested
model_type: UniRainModel
scale: 1
num_gpu: 0
datasets:
  test_1:
    name: rainy
    type: DistilledMixedPairedDataset
    dataroot: DATA
network_g:
  type: UniRain
  dim: 8
  num_blocks: [1, 1]
  decoder_blocks: [1]
  heads: [1, 2]
path:
  pretrain_network_g: WEIGHTS
val:
  save_img: true
  suffix: ~
  metrics: [psnr, ssim]
"""
"""A test of UniRain; DATA and WEIGHTS stand for paths."""


def line_of(text: str, part: str) -> int:
    """The number (from 1) of the first line that holds ``part``."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)
