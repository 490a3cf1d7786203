"""A week of nights in minutes: the queue's own verbs on a real database, while a simulated clock goes on.

A batch of episodes waits for its window; cards, schedulers, a deliverer and the API's process work as discrete events,
and each of them is killed now and then: between two blocks, or at any statement of a transaction, which is then rolled
back, before a commit or right after it. What a killed process knew is gone, and another starts in its place.

Real are the database, the verbs, the scheduler's chores and the intake. Simulated are time, the engine, which is as
fast as it is said to be, the broker, and the receiver of callbacks.
"""
