"""Many runs: experiments as data, their runs, results, figures and explorer."""
