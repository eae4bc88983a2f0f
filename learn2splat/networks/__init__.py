"""Parts of networks that initialisers and learned optimizers share; they know nothing of Gaussians."""
