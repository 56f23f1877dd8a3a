"""A platform whose tastes shift > arms that retrain in different ways > their watch time, training, and what they recover."""
