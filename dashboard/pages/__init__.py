"""The pages: each module has `layout`, what stands there, and `register`, what happens there."""
