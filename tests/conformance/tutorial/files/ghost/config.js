config = {};
