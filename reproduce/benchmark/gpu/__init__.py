"""What a GPU does with this package: is it right, which executor is fastest, how long does the paper's run take?"""
