"""SQL: tables, repositories, transactions. Nothing outside this package and the migrations imports SQLAlchemy."""
