"""What should come out: closed forms for each experiment, with their sources.

* `calls`: a caller who comes and goes, and a worker that crashes (E1, E9);
* `queues`: jobs that wait, for workers that are alike (E2);
* `machines`: workers that are not alike (E3);
* `balancing`: which of many nodes takes a job (E4);
* `spreading`: how news gets around, after a partition too (E5, E7, E8);
* `copies`: fetching on demand against copying everywhere (E6).

Times are seconds, rates a second.  Nothing here knows of the product: a formula is tested against a
computation on another way (integration, a small simulation, a textbook's number), and the product
is then compared with the formula.  What is a bound and no equality says so in its name.
"""
