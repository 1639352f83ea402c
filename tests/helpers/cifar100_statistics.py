"""The mean and the standard deviation of each colour of CIFAR-100, as published."""

PUBLISHED_MEAN = (0.50707516, 0.48654887, 0.44091784)
PUBLISHED_STD = (0.26733429, 0.25643846, 0.27615047)
