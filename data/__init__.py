"""Published numbers, blessed results and small trained models; README.md beside this file gives the origin of each."""
