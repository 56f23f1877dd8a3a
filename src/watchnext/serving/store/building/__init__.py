"""A release and an older store > an environment that holds both: filled, checked, and put in the place of the old one."""
