"""Feed-forward initialisers: photos and cameras in, Gaussians out."""
