"""Speed side by side with code that others wrote: one job, one environment for each peer, processes in alternation."""
