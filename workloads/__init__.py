"""What is asked: questions, their traced samples, arrivals and the strategies that answer them."""
