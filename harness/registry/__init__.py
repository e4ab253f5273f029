"""What can be named on the command line, and how a name becomes something that runs."""
