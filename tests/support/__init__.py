"""What tests in more than one folder share: toy bundles and engines, small data sets, deployments."""
