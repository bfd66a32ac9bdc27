"""Input that does harm: damaged files, and words and files of an attacker."""
