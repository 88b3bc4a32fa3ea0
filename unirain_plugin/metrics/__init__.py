"""PSNR, SSIM and other figures of restored images, and the cost of networks."""
