"""The real engine loop, scheduler and controller, in virtual time."""
